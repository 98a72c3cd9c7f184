"""Model cards: what the hub's own client reads of them, and that nothing in them is alive."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from factories import ROOT, HubCache, accuracy, read, record
from huggingface_hub import ModelCard, parse_eval_result_entries
from huggingface_hub.repocard_data import model_index_to_eval_results
from markdown_it import MarkdownIt
from msgspec.structs import replace

import prunebench
from prunebench.cases import loader
from prunebench.checkpoints import card, card_metadata, card_text, dense_card
from prunebench.checkpoints.card import Base
from prunebench.edits.drop_blocks import DropBlocks
from prunebench.edits.drop_sublayers import DropSublayers
from prunebench.edits.merge_blocks import MergeBlocks
from prunebench.edits.refit_weights import RefitWeights
from prunebench.edits.slice_hidden import SliceHidden
from prunebench.plan import Plan
from prunebench.record import Measurement
from prunebench.results.baselines.files import Baselines
from prunebench.results.baselines.published import Row
from prunebench.results.store import Store
from prunebench.runs.worker import Worker

KEPT = Baselines(ROOT / "baselines")
SLEB = "smoke/tinyworld/sleb-0.3"


def kept(case_id: str = SLEB):
    found = KEPT.load(case_id, "cpu")
    assert found is not None
    return found


def written(made, **options) -> str:
    base = options.pop("base", Base("org/model", "org/model"))
    return card_text.render(card.of_record(made, base, code=False, **options))


def test_the_hubs_client_reads_every_accepted_record_back() -> None:
    """Metadata parses, and each result is the measurement it says, to the last digit."""
    assert len(KEPT.case_ids()) > 20
    for case_id in KEPT.case_ids():
        made = kept(case_id)
        data = ModelCard(written(made)).data
        index = data.to_dict().get("model-index")
        name, found = model_index_to_eval_results(index)

        assert data.base_model == "org/model", case_id
        assert data.tags == ["pruning", "prunebench", made.asked["method"]["name"]]
        assert name.startswith("org/model pruned by")
        assert data.eval_results == found
        assert {r.metric_name for r in found} >= {"perplexity/tinyworld"}
        for one in found:
            assert one.metric_value == made.find(one.metric_name).value
            assert one.dataset_args["protocol"] == "tinyworld@1"


def test_the_embedded_case_asks_what_was_answered(tmp_path: Path) -> None:
    """The YAML of the card, as a case file, is the question of the record again."""
    (tmp_path / "cases").mkdir()
    assert len(KEPT.case_ids()) > 20
    for case_id in KEPT.case_ids():
        made = kept(case_id)
        base = Base("prunebench/reference")
        fences = [t for t in MarkdownIt().parse(body(written(made, base=base))) if t.info == "yaml"]
        file = tmp_path / "cases" / "again.yaml"
        file.write_text(fences[0].content)

        (case,) = loader.load([file])
        assert case.asked == made.asked


def body(text: str) -> str:
    """A card without its metadata."""
    return ModelCard(text).text


HOSTILE = "a|b`c``d <script>x</script> [l](http://e.x) ![i](y) @you #1 **b** www.e.x\n# h\n---\n```"


def test_names_from_files_stay_text() -> None:
    """A parser of Markdown finds no link, picture, HTML or heading that we did not write."""
    odd = Measurement(f"accuracy/{HOSTILE}", 0.5, HOSTILE, "higher")
    asked = {
        "protocol": HOSTILE,
        "model": {"id": HOSTILE},
        "method": {"name": HOSTILE},
        "metrics": [{"name": "accuracy", "tasks": [HOSTILE]}],
        "calibration": {"dataset": HOSTILE},
    }
    made = record(odd, asked=asked)
    text = written(made, base=Base(HOSTILE, licence={"license": "other", "license_name": HOSTILE}))

    data = ModelCard(text).data
    assert data.license == "other"
    assert "\n" not in data.license_name
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(body(text))
    inline = [c for t in tokens for c in t.children or ()]
    assert not {t.type for t in [*tokens, *inline]} & {"html_block", "html_inline", "image", "hr"}
    links = [t.attrs["href"] for t in inline if t.type == "link_open"]
    assert links == []
    headings = [t.tag for t in tokens if t.type == "heading_open"]
    assert headings == ["h1"] + ["h2"] * 5
    assert len([t for t in tokens if t.type == "tr_open"]) == 2  # the head, and one measurement
    assert [t.info for t in tokens if t.type == "fence"] == ["python", "yaml", "sh"]
    shown = "".join(c.content for c in inline)
    assert "<script>x</script>" in shown
    assert "[l](http://e.x)" in shown
    fenced = next(t.content for t in tokens if t.info == "yaml")
    assert yaml.safe_load(fenced)["calibration"] == {"dataset": HOSTILE}


@pytest.mark.parametrize("text", ["1. one", "- two", "+ x", "= y", "a * b_c ~d~", "0.5", r"\n"])
def test_plain_text_shows_its_letters(text: str) -> None:
    """As the item of a list, a parser gives back exactly what went in."""
    tokens = MarkdownIt().parse(f"- {card_text.plain(text)}")
    content = [c for t in tokens for c in t.children or ()]

    assert "".join(c.content for c in content) == text
    assert sum(t.type.endswith("list_open") for t in tokens) == 1


def test_dense_and_published_stand_beside() -> None:
    """Numbers of the dense model are those of the same metrics; a paper's have their source."""
    made = kept()
    dense = kept("smoke/tinyworld/dense")
    row = Row(
        source="A. Author",
        where="table 1",
        protocol="tinyworld@1",
        model="x",
        method={"name": "sleb"},
        metric="perplexity/tinyworld",
        value=9.25,
    )
    text = written(made, dense=dense, rows=[row])
    cells = next(line for line in text.splitlines() if "perplexity/tinyworld (ppl)" in line)

    own, was = (r.find("perplexity/tinyworld") for r in (made, dense))
    assert f"| {was.value:.4f} | {own.value:.4f} ± " in cells
    assert "541 windows" in cells
    assert "A. Author, table 1" in text
    # Perplexity is exp of the mean loss; by the delta method so is its standard error.
    losses = torch.tensor(own.samples, dtype=torch.float64)
    half = 1.959964 * float(losses.std() / len(losses) ** 0.5) * own.value
    assert f"± {half:.4f}" in cells


def test_plans_in_words() -> None:
    """Every kind of edit is told with its numbers."""
    plan = (
        DropBlocks((5, 3)),
        DropSublayers(((2, "attn"),)),
        MergeBlocks(((7, 9),)),
        SliceHidden((48, 56, 56)),
        RefitWeights(("a", "b")),
    )
    told = "\n".join(card_text.plain(edit.words()) for edit in plan)

    for words in ("2 decoder blocks", "5, 3", "2.attn", "7 to 9", "48 to 56", "2 modules"):
        assert words in told


def test_results_for_the_hubs_benchmarks_only() -> None:
    """What the hub keeps a leaderboard of, in per cent, where all questions were asked."""
    gsm8k = Measurement("generation/gsm8k", 0.125, "match", "higher")
    asked = {"method": {"name": "sleb"}, "protocol": "prunebench@1", "amount": {"blocks": 2}}
    metric = {"name": "generation", "tasks": ["gsm8k"], "num_fewshot": 5}
    made = record(gsm8k, accuracy(5), asked={**asked, "metrics": [metric]})
    files = card_metadata.benchmark_files(made)
    (entry,) = parse_eval_result_entries(yaml.safe_load(files[".eval_results/gsm8k.yaml"]))

    assert list(files) == [".eval_results/gsm8k.yaml"]
    assert (entry.dataset_id, entry.task_id, entry.value) == ("openai/gsm8k", "gsm8k", 12.5)
    assert "num_fewshot 5" in entry.notes
    few = record(gsm8k, asked={**asked, "metrics": [{**metric, "limit": 10}]})
    assert card_metadata.benchmark_files(few) == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("---\nlicense: mit\n---\nx", {"license": "mit"}),
        (
            "---\nlicense: other\nlicense_name: own\nlicense_link: L\n---\n",
            {"license": "other", "license_name": "own", "license_link": "L"},
        ),
        ("---\nlicense: [mit, apache-2.0]\n---\n", {}),
        ("---\nlicense: 'a b'\n---\n", {}),
        ("---\nlicense: [\n---\n", {}),
        ("no metadata; license: mit", {}),
        ("---\n- a\n---\n", {}),
    ],
)
def test_licences_as_the_dense_card_states_them(
    tmp_path: Path, text: str, expected: dict[str, str]
) -> None:
    """One licence in the hub's form, or none at all."""
    (tmp_path / "README.md").write_text(text)

    assert dense_card.licence(tmp_path / "README.md") == expected
    assert dense_card.licence(tmp_path / "absent.md") == {}


def test_a_hub_model_gives_its_id_and_commit(hub_cache: HubCache, tmp_path: Path) -> None:
    """Its card is read where the hub's cache has it; a folder's place is nobody's business."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    (tmp_path / "m" / "README.md").write_text("---\nlicense: llama2\n---\n")
    hub_cache.add("org/model", tmp_path / "m")

    assert dense_card.read("org/model", None, "1" * 40) == Base(
        "org/model", "org/model", "1" * 40, {"license": "llama2"}
    )
    assert dense_card.read(str(tmp_path / "m")) == Base("m", licence={"license": "llama2"})


# --------------------------------------------------------------------------------- checkpoints


def test_export_makes_the_measured_model_bit_for_bit(cli, tmp_path: Path) -> None:
    """The folder holds the model that the baseline's plan makes, with its card."""
    made = kept()
    folder = tmp_path / "out"
    code, out, err = cli("export", SLEB, "--checkpoint", folder, "--store", tmp_path / "none")
    assert (code, err) == (0, "")
    assert "hf upload" in out

    lm = prunebench.load_model("prunebench/reference", dtype="float32")
    expected = prunebench.apply(lm, Plan(made.plan))
    again = prunebench.load_model(folder)
    ids = torch.arange(3, 35)[None]
    assert torch.equal(expected.hf(ids).logits, again.hf(ids).logits)
    assert again.num_parameters == made.parameters
    told = ModelCard((folder / "README.md").read_text())
    assert told.data.license == "apache-2.0"
    assert told.data.base_model is None  # the reference model is on no hub
    assert "2.3426 | 2.5023" in told.text  # the dense baseline beside it
    assert read(folder / "pruning.json")["plan"] == [
        {"edit": "drop_blocks", "blocks": list(made.plan[0].blocks)}
    ]


def test_export_takes_the_newest_record_and_refuses_other_weights(cli, tmp_path: Path) -> None:
    """A record of other weights is not exported, and nothing is written."""
    store = tmp_path / "store"
    Store(store).save(replace(kept(), model_hash="f" * 64, key="k"))

    code, _, err = cli("export", SLEB, "--checkpoint", tmp_path / "o", "--store", store)
    assert code == 2
    assert "is not the one that was measured" in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("case_id", "says"),
    [
        ("smoke/tinyworld/dense", "nothing was removed"),
        ("smoke/tinyworld/slicegpt-0.3", "--search-again"),
        ("smoke/tinyworld/sleb", "no record or baseline"),
        ("sleb-0.3", "2 cases end in"),
    ],
)
def test_export_says_why_not(cli, tmp_path: Path, case_id: str, says: str) -> None:
    """One plain line each, exit 2."""
    where = ("--checkpoint", tmp_path / "o", "--store", tmp_path / "s")
    code, _, err = cli("export", case_id, *where)

    assert code == 2
    assert says in err
    assert len(err.splitlines()) == 1


def test_export_refuses_a_place_that_is_taken(cli, tmp_path: Path) -> None:
    """Before any model is loaded."""
    (tmp_path / "file").write_text("mine")
    code, _, err = cli("export", SLEB, "--checkpoint", tmp_path, "--store", tmp_path / "s")

    assert code == 2
    assert "already exists" in err


def test_searching_again_must_find_the_recorded_tensors(
    cli, tiny, letters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan of a sliced model is found anew and is the same; with another hash it is refused."""
    lm = tiny("llama")
    lm.hf.save_pretrained(tmp_path / "model")
    letters.save_pretrained(tmp_path / "model")
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "t.yaml").write_text(
        "model: {id: ../model, dtype: float32}\nmethod: {name: slicegpt}\nslicing: 0.25\n"
        "calibration: {dataset: random, nsamples: 4, seqlen: 16}\nmetrics: [{name: memory}]\n"
    )
    monkeypatch.chdir(tmp_path)
    (case,) = loader.load([Path("cases")])
    Store(Path(".prunebench")).save(Worker("cpu").run(case))
    where = ("--checkpoint", "out", "--search-again")
    code, _, err = cli("export", "slicegpt-slicing0.25", *where)
    assert (code, err) == (0, "")

    text = Path("out/README.md").read_text()
    assert "trust_remote_code=True" in text
    assert str(tmp_path) not in text
    made = Store(Path(".prunebench")).latest("t/slicegpt-slicing0.25")
    (edit,) = made.plan
    other = replace(made, plan=(replace(edit, tensors="0" * 64),), created="2027-01-01", key="z")
    Store(Path(".prunebench")).save(other)
    code, _, err = cli("export", "slicegpt-slicing0.25", "--checkpoint", "b", "--search-again")
    assert code == 2
    assert "other tensors" in err


def test_prune_writes_a_card_with_what_it_measured(
    cli, tiny, ids, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The perplexity of --eval-ids stands in it, and nothing else that nobody measured."""
    tiny("llama").hf.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("---\nlicense: mit\n---\n")
    (tmp_path / "ids.json").write_text(str(ids.tolist()))
    monkeypatch.chdir(tmp_path)
    given = ("--method", "shortened_llama", "--option", "criterion=ppl", "--blocks", 1)
    given = (*given, "--option", "keep_first=0", "--calibration-ids", "ids.json")
    more = ("--eval-ids", "ids.json", "--output", "out", "--json", "o.json")
    code, _, err = cli("prune", "./model", *given, *more)
    assert code == 0, err

    told = ModelCard(Path("out/README.md").read_text())
    ppl = read(Path("o.json"))["perplexity"]
    assert told.data.license == "mit"
    assert told.data.eval_results is None
    assert f"| {card.number(ppl['dense'])} | {card.number(ppl['pruned'])} |" in told.text
    assert "6 windows of 24 tokens" in told.text
    assert str(tmp_path) not in told.text
    command = re.search(r"prunebench prune .*", told.text)[0]
    assert "--option criterion=ppl" in command
    assert "--option keep_first=0" in command
    bare = cli("prune", "./model", "--method", "random", "--blocks", 1, "--output", "bare")
    assert bare[0] == 0
    assert "Nothing was measured" in Path("bare/README.md").read_text()


def test_a_card_is_fetched_where_the_hub_may_be_asked(
    hub_cache: HubCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the revision asked for; a hub that fails costs the licence and nothing else."""
    import huggingface_hub
    from huggingface_hub import constants

    asked = []

    def fetch(repository: str, name: str, revision: str | None) -> str:
        asked.append((repository, name, revision))
        if len(asked) > 1:
            raise OSError("no route to host")
        (tmp_path / "card.md").write_text("---\nlicense: gemma\n---\n")
        return str(tmp_path / "card.md")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    assert dense_card.read("org/model", "v2").licence == {}
    assert asked == []  # offline
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert dense_card.read("org/model", "v2").licence == {"license": "gemma"}
    assert dense_card.read("org/model", "v2").licence == {}
    assert asked == [("org/model", "README.md", "v2")] * 2
