"""The generated language that the reference model speaks.

TinyWorld is a small English-like language whose text needs several layers to predict. A document
is a short story that mixes six kinds of sentences:

* people move about and hand objects to each other, and the story recalls who holds what and who
  (or what) is where, so a reader has to follow the state, sometimes over two hops;
* subjects and verbs agree across relative clauses and prepositional phrases;
* a fixed world of facts about animals, plants, countries and people;
* lists, and what comes first, last, before and after;
* small sums in words;
* brackets that have to be closed.

Everything is a function of a seed and uses only the standard library. The splits cannot overlap:
a document belongs to the one split that the checksum of its text names.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

NAMES = ("anna", "ben", "carl", "dora", "emil", "fina", "gus", "hana")
PLACES = ("kitchen", "garden", "attic", "cellar", "barn", "harbor", "market", "tower")
OBJECTS = ("ball", "cup", "key", "lamp", "book", "coin", "rope", "drum")

#: Nouns and verbs that agree, as (singular, plural).
NOUNS = (
    ("dog", "dogs"),
    ("cat", "cats"),
    ("boy", "boys"),
    ("girl", "girls"),
    ("nurse", "nurses"),
    ("farmer", "farmers"),
    ("king", "kings"),
    ("guard", "guards"),
)
VERBS = (
    ("sleeps", "sleep"),
    ("runs", "run"),
    ("sings", "sing"),
    ("waits", "wait"),
    ("smiles", "smile"),
    ("jumps", "jump"),
)
TRANSITIVES = (("sees", "see"), ("likes", "like"), ("helps", "help"), ("knows", "know"))
PREPOSITIONS = ("near", "behind", "beside")

#: What each thing is, its colour and where it lives.
THINGS: dict[str, tuple[str, str, str]] = {
    "robin": ("bird", "red", "forest"),
    "crow": ("bird", "black", "hill"),
    "owl": ("bird", "brown", "cave"),
    "swan": ("bird", "white", "lake"),
    "trout": ("fish", "brown", "river"),
    "eel": ("fish", "black", "lake"),
    "carp": ("fish", "yellow", "meadow"),
    "pike": ("fish", "green", "cave"),
    "oak": ("tree", "grey", "hill"),
    "elm": ("tree", "green", "forest"),
    "pine": ("tree", "blue", "river"),
    "birch": ("tree", "white", "meadow"),
    "rose": ("flower", "red", "hill"),
    "lily": ("flower", "white", "river"),
    "tulip": ("flower", "yellow", "forest"),
    "iris": ("flower", "blue", "lake"),
    "apple": ("fruit", "green", "meadow"),
    "pear": ("fruit", "yellow", "river"),
    "plum": ("fruit", "blue", "hill"),
    "cherry": ("fruit", "red", "cave"),
    "fox": ("beast", "red", "meadow"),
    "wolf": ("beast", "grey", "cave"),
    "bear": ("beast", "brown", "lake"),
    "deer": ("beast", "grey", "forest"),
}
CAPITALS: dict[str, str] = {
    "norvia": "belton",
    "sudria": "marlow",
    "estria": "quill",
    "westra": "tamsin",
    "orland": "pernau",
    "ulmia": "dorvik",
    "ildria": "selby",
    "avaria": "lunden",
}
#: The work that each person does and the country that each comes from.
PEOPLE: dict[str, tuple[str, str]] = {
    "anna": ("baker", "ulmia"),
    "ben": ("smith", "norvia"),
    "carl": ("tailor", "avaria"),
    "dora": ("doctor", "estria"),
    "emil": ("miner", "sudria"),
    "fina": ("painter", "orland"),
    "gus": ("singer", "ildria"),
    "hana": ("teacher", "westra"),
}
CATEGORIES = ("bird", "fish", "tree", "flower", "fruit", "beast")
COLOURS = ("red", "black", "brown", "white", "yellow", "green", "grey", "blue")
HOMES = ("forest", "hill", "cave", "lake", "river", "meadow")
JOBS = tuple(job for job, _ in PEOPLE.values())

_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen"
)
NUMBERS = tuple(_NUMBERS.split())
ORDINALS = ("first", "second", "third", "last")
BRACKETS = {"(": ")", "[": "]", "{": "}"}
_GRAMMAR = (
    "the a of in to with that from . , : plus minus is goes takes gives gets joins comes "
    "lives works as capital colour kind list just before after nest close"
)
GRAMMAR = tuple(_GRAMMAR.split())


def _vocabulary() -> tuple[str, ...]:
    pairs = [word for pair in (*NOUNS, *VERBS, *TRANSITIVES) for word in pair]
    words = (
        *GRAMMAR,
        *BRACKETS.keys(),
        *BRACKETS.values(),
        *NAMES,
        *PLACES,
        *OBJECTS,
        *pairs,
        *PREPOSITIONS,
        *THINGS,
        *CATEGORIES,
        *COLOURS,
        *HOMES,
        *CAPITALS,
        *CAPITALS.values(),
        *JOBS,
        *NUMBERS,
        *ORDINALS,
    )
    return tuple(dict.fromkeys(words))


#: Every word that a document can hold, each once, in a fixed order.
VOCABULARY: tuple[str, ...] = _vocabulary()

#: The checksum buckets (of 100) that belong to each split.
SPLITS: dict[str, range] = {
    "train": range(60),
    "validation": range(60, 70),
    "test": range(70, 80),
    "calibration": range(80, 90),
    "tasks": range(90, 100),
}

#: The tasks and the kinds of question in each.
TASK_KINDS: dict[str, tuple[str, ...]] = {
    "agreement": ("singular", "plural"),
    "recall": ("holder", "where", "where_object"),
    "facts": ("category", "colour", "home", "capital", "country", "job", "origin"),
    "order": ("first", "second", "third", "last", "after", "before"),
    "complete": ("sum", "nest"),
}
#: How many questions of a kind there are per one of another kind, if not one. Questions over two
#: hops are the rarest in the text, too.
SHARES: dict[str, int] = {"holder": 2, "where": 2}

#: How many words a document aims at; it ends with the first sentence group that reaches this.
LENGTHS = (30, 92)
#: How many words a question may have before its answer.
CONTEXT = (16, 64)

#: How often each kind of sentence group starts. A document follows one of these mixes, so most
#: have enough events to get lost in.
GENRES: tuple[dict[str, int], ...] = (
    {"track": 80, "agreement": 5, "facts": 4, "order": 2, "sums": 3, "nest": 2},
    {"track": 80, "agreement": 5, "facts": 4, "order": 2, "sums": 3, "nest": 2},
    {"track": 0, "agreement": 25, "facts": 25, "order": 22, "sums": 16, "nest": 12},
)


@dataclass(frozen=True)
class Query:
    """A place in a document where one answer is right: the words that start at `position`."""

    task: str
    kind: str
    position: int
    answer: tuple[str, ...]
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """A question of a task: the text so far, the answer and, for choice tasks, the choices."""

    prompt: str
    answer: str
    choices: tuple[str, ...]
    kind: str

    @property
    def gold(self) -> int:
        """Gives the position of the answer among the choices."""
        return self.choices.index(self.answer)


@dataclass
class _Story:
    """A document under construction, with the state of its people and objects."""

    rng: random.Random
    words: list[str] = field(default_factory=list)
    queries: list[Query] = field(default_factory=list)
    cast: list[str] = field(default_factory=list)
    stage: list[str] = field(default_factory=list)
    props: list[str] = field(default_factory=list)
    place: dict[str, str] = field(default_factory=dict)
    holder: dict[str, str] = field(default_factory=dict)
    #: Where in the text the last event ended that changed what (kind, entity) recalls. Gone once
    #: the text has recalled it, since a question about it would then be a question of copying.
    changed: dict[tuple[str, str], int] = field(default_factory=dict)
    #: What the text recalled last, so that it does not say the same thing twice in a row.
    recalled: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        self.cast = self.rng.sample(NAMES, self.rng.choice((3, 4)))
        self.stage = self.rng.sample(PLACES, self.rng.choice((3, 4)))
        self.props = self.rng.sample(OBJECTS, self.rng.choice((2, 3)))

    def say(self, text: str) -> None:
        self.words.extend(text.split())

    def mark(self, task: str, kind: str, answer: Sequence[str], choices: Sequence[str]) -> None:
        """Notes that the next words are the answer to a question of a task."""
        query = Query(task, kind, len(self.words), tuple(answer), tuple(choices))
        self.queries.append(query)


def _pick(rng: random.Random, answer: str, near: Sequence[str], far: Sequence[str]) -> list[str]:
    """Draws three wrong choices, those from `near` first, and puts the answer before them."""
    wrong = [word for word in near if word != answer]
    rng.shuffle(wrong)
    rest = [word for word in far if word != answer and word not in wrong]
    rng.shuffle(rest)
    return [answer, *(wrong + rest)[:3]]


# --- who holds what, and who is where ---


def _moved(story: _Story, person: str) -> None:
    story.changed["where", person] = len(story.words)
    for thing, holder in story.holder.items():
        if holder == person:
            story.changed["where_object", thing] = len(story.words)


def _handed(story: _Story, thing: str, person: str) -> None:
    story.holder[thing] = person
    story.changed["holder", thing] = len(story.words)
    story.changed["where_object", thing] = len(story.words)


def _go(story: _Story) -> None:
    person = story.rng.choice(story.cast)
    place = story.rng.choice([p for p in story.stage if p != story.place.get(person)])
    story.say(f"{person} goes to the {place} .")
    story.place[person] = place
    _moved(story, person)


def _join(story: _Story) -> None:
    """Lets a person go where another one is: the text does not name the place again."""
    pairs = [
        (a, b)
        for a in story.cast
        for b in story.place
        if a != b and story.place.get(a) != story.place[b]
    ]
    if not pairs:
        _go(story)
        return
    person, other = story.rng.choice(pairs)
    story.say(f"{person} joins {other} .")
    story.place[person] = story.place[other]
    _moved(story, person)


def _take(story: _Story) -> None:
    free = [thing for thing in story.props if thing not in story.holder]
    if not free:
        _give(story)
        return
    person, thing = story.rng.choice(story.cast), story.rng.choice(free)
    story.say(f"{person} takes the {thing} .")
    _handed(story, thing, person)


def _give(story: _Story) -> None:
    if not story.holder:
        _take(story)
        return
    thing = story.rng.choice(list(story.holder))
    old = story.holder[thing]
    new = story.rng.choice([person for person in story.cast if person != old])
    if story.rng.random() < 0.6:
        story.say(f"{old} gives the {thing} to {new} .")
    else:
        story.say(f"{new} gets the {thing} from {old} .")
    _handed(story, thing, new)


def _known(story: _Story) -> list[tuple[str, str]]:
    """Lists what the story can recall by now."""
    known = [("holder", thing) for thing in story.holder]
    known += [("where", person) for person in story.place]
    known += [("where_object", t) for t, person in story.holder.items() if person in story.place]
    return known


def _recall(story: _Story, kind: str, entity: str) -> None:
    """Says where or with whom somebody or something is; the last word follows from the story."""
    story.recalled = (kind, entity)
    subject = entity if kind == "where" else f"the {entity}"
    if kind == "holder":
        story.say(f"{subject} is with")
        answer, pool = story.holder[entity], NAMES
    else:
        story.say(f"{subject} is in the")
        person = entity if kind == "where" else story.holder[entity]
        answer, pool = story.place[person], PLACES
    since = story.changed.pop((kind, entity), None)
    near = sorted({word for word in story.words if word in pool})
    # The event must not be the sentence just before, and there must be others to mix it up with.
    if since is not None and len(story.words) - since > 6 and len(near) >= 3:
        story.mark("recall", kind, [answer], _pick(story.rng, answer, near, pool))
    story.say(f"{answer} .")


def _recall_some(story: _Story) -> None:
    """Recalls up to two things, rather those that have changed since they were last recalled."""
    rng = story.rng
    for _ in range(rng.choices((0, 1, 2), (4, 5, 2))[0]):
        known = [item for item in _known(story) if item != story.recalled]
        news = [item for item in known if item in story.changed]
        old = [item for item in news if len(story.words) - story.changed[item] > 3]
        if not known:
            return
        pools = [pool for pool in (old, news, known) if pool]
        kind, entity = rng.choice(rng.choices(pools, (5, 3, 2)[-len(pools) :])[0])
        if kind == "where_object" and rng.random() < 0.25:
            # Now and then the text spells out the two steps first.
            _recall(story, "holder", entity)
            _recall(story, "where", story.holder[entity])
        _recall(story, kind, entity)


def _track(story: _Story) -> None:
    options = (_go, _take, _give, _join)
    weights = (4, 3, 3, 2) if len(story.place) > 1 else (4, 3, 0, 0)
    story.rng.choices(options, weights)[0](story)
    _recall_some(story)


# --- agreement ---


def _agreement(story: _Story) -> None:
    """Writes a sentence whose verb agrees with a noun that other nouns may separate from it."""
    rng = story.rng
    head, near, far = (rng.choice(NOUNS) for _ in range(3))
    number, other, third = (rng.randrange(2) for _ in range(3))
    clause, inner = rng.choice(TRANSITIVES), rng.choice(PREPOSITIONS)
    shape = rng.randrange(6)
    story.say(f"the {head[number]}")
    # The nearest noun before the verb is the one that leads astray.
    attractor = third if shape > 3 else other
    if shape == 1:
        story.say(f"{inner} the {near[other]}")
    elif shape == 2:
        story.say(f"that {clause[number]} the {near[other]}")
    elif shape == 3:
        story.say(f"that the {near[other]} {clause[other]}")
    elif shape == 4:
        story.say(f"{inner} the {near[other]} that {clause[other]} the {far[third]}")
    elif shape == 5:
        story.say(f"that the {near[other]} {inner} the {far[third]} {clause[other]}")
    verb = rng.choice(VERBS)
    if shape and attractor != number:
        story.mark("agreement", ("singular", "plural")[number], [verb[number]], verb)
    story.say(f"{verb[number]} .")


# --- facts ---


def _tell(story: _Story, kind: str, lead: str, answer: str, pool: Sequence[str]) -> None:
    # If the answer was named before, the question might be answered by copying.
    new = answer not in story.words
    story.say(lead)
    if new:
        story.mark("facts", kind, [answer], _pick(story.rng, answer, [], pool))
    story.say(f"{answer} .")


def _thing_fact(story: _Story) -> None:
    thing = story.rng.choice(list(THINGS))
    category, colour, home = THINGS[thing]
    kind = story.rng.choice(("category", "colour", "home"))
    if kind == "category":
        lead = story.rng.choice((f"the {thing} is a", f"the {thing} is a kind of"))
        _tell(story, kind, lead, category, CATEGORIES)
    elif kind == "colour":
        lead = story.rng.choice((f"the colour of the {thing} is", f"the {thing} is"))
        _tell(story, kind, lead, colour, COLOURS)
    else:
        lead = story.rng.choice((f"the {thing} lives in the", f"in the {home} lives the"))
        if lead.endswith("lives the"):
            story.say(f"{lead} {thing} .")
        else:
            _tell(story, kind, lead, home, HOMES)


def _country_fact(story: _Story) -> None:
    country = story.rng.choice(list(CAPITALS))
    capital = CAPITALS[country]
    if story.rng.random() < 0.5:
        _tell(story, "capital", f"the capital of {country} is", capital, list(CAPITALS.values()))
    else:
        lead = f"{capital} is the capital of"
        _tell(story, "country", lead, country, list(CAPITALS))


def _person_fact(story: _Story) -> None:
    person = story.rng.choice(NAMES)
    job, country = PEOPLE[person]
    if story.rng.random() < 0.5:
        _tell(story, "job", f"{person} works as a", job, JOBS)
    else:
        _tell(story, "origin", f"{person} comes from", country, list(CAPITALS))


def _facts(story: _Story) -> None:
    for _ in range(story.rng.choice((1, 2))):
        story.rng.choices((_thing_fact, _country_fact, _person_fact), (5, 3, 2))[0](story)


# --- order ---


def _order_lead(items: Sequence[str], kind: str, place: int) -> tuple[str, str]:
    """Gives the words that ask for an item of a list, and the item."""
    if kind == "after":
        return f"just after {items[place]} comes", items[place + 1]
    if kind == "before":
        return f"just before {items[place + 1]} comes", items[place]
    index = {"first": 0, "second": 1, "third": 2, "last": len(items) - 1}[kind]
    return f"{kind} comes", items[index]


def _order(story: _Story) -> None:
    """Writes a list and says what comes where in it."""
    rng = story.rng
    items = rng.sample(rng.choice((NAMES, OBJECTS)), rng.choice((4, 5)))
    story.say("the list is " + " , ".join(items) + " .")
    kinds = list(TASK_KINDS["order"])
    rng.shuffle(kinds)
    told: set[str] = set()
    for kind in kinds[: rng.choice((2, 3, 4))]:
        lead, answer = _order_lead(items, kind, rng.randrange(len(items) - 1))
        story.say(lead)
        # An item that was told before is a likelier guess, so no question asks for it.
        if answer not in told:
            story.mark("order", kind, [answer], _pick(rng, answer, items, ()))
        story.say(f"{answer} .")
        told.update((*lead.split(), answer))


# --- sums and brackets ---


def _sum(rng: random.Random) -> tuple[str, int]:
    shape = rng.random()
    if shape < 0.5:
        a, b = rng.randint(0, 9), rng.randint(0, 9)
        return f"{NUMBERS[a]} plus {NUMBERS[b]}", a + b
    if shape < 0.75:
        a = rng.randint(0, 12)
        b = rng.randint(0, min(a, 9))
        return f"{NUMBERS[a]} minus {NUMBERS[b]}", a - b
    a, b, c = (rng.randint(0, 5) for _ in range(3))
    return f"{NUMBERS[a]} plus {NUMBERS[b]} plus {NUMBERS[c]}", a + b + c


def _sums(story: _Story) -> None:
    for _ in range(story.rng.choice((1, 2))):
        lead, value = _sum(story.rng)
        story.say(f"{lead} is")
        story.mark("complete", "sum", [NUMBERS[value]], ())
        story.say(f"{NUMBERS[value]} .")


def _nest(story: _Story) -> None:
    """Opens and closes brackets; after the word "close" all that are open are closed in turn."""
    rng = story.rng
    opened: list[str] = []
    story.say("nest :")
    for _ in range(rng.randint(3, 8)):
        if len(opened) > 1 and (len(opened) > 3 or rng.random() < 0.35):
            story.say(BRACKETS[opened.pop()])
        else:
            opened.append(rng.choice(list(BRACKETS)))
            story.say(opened[-1])
    closing = [BRACKETS[bracket] for bracket in reversed(opened)]
    story.say("close")
    if len(closing) > 1:
        story.mark("complete", "nest", closing, ())
    story.say(" ".join(closing) + " .")


_WRITERS = {
    "track": _track,
    "agreement": _agreement,
    "facts": _facts,
    "order": _order,
    "sums": _sums,
    "nest": _nest,
}


# --- documents and questions ---


def _write(rng: random.Random, mixes: Sequence[dict[str, int]]) -> _Story:
    story = _Story(rng)
    length = rng.randint(*LENGTHS)
    mix = rng.choice(mixes)
    names, weights = list(mix), list(mix.values())
    while len(story.words) < length:
        _WRITERS[rng.choices(names, weights)[0]](story)
    return story


def document(rng: random.Random, mixes: Sequence[dict[str, int]] = GENRES) -> str:
    """Writes one document, by default in the mix of the shipped splits."""
    return " ".join(_write(rng, mixes).words)


def split_of(text: str) -> str:
    """Names the split that a document belongs to."""
    bucket = zlib.crc32(text.encode()) % 100
    return next(name for name, buckets in SPLITS.items() if bucket in buckets)


def documents(
    split: str, count: int, seed: int, mixes: Sequence[dict[str, int]] = GENRES
) -> Iterator[str]:
    """Writes `count` documents of a split, always the same ones for a seed."""
    for text, _ in marked_documents(split, count, seed, mixes):
        yield text


def marked_documents(
    split: str, count: int, seed: int, mixes: Sequence[dict[str, int]] = GENRES
) -> Iterator[tuple[str, list[int]]]:
    """Writes documents, each with the places of the words that follow from the story alone.

    These are the answers of recall and order that a question could ask for.
    """
    rng = random.Random(f"{split} {seed}")
    while count > 0:
        story = _write(rng, mixes)
        text = " ".join(story.words)
        if split_of(text) == split:
            yield text, [q.position for q in story.queries if q.task in ("recall", "order")]
            count -= 1


def _candidates(task: str, seed: int) -> Iterator[tuple[list[str], Query]]:
    """Finds, in documents of the task split, one place each that a task can ask about."""
    rng = random.Random(f"questions {task} {seed}")
    while True:
        story = _write(rng, GENRES)
        if split_of(" ".join(story.words)) != "tasks":
            continue
        fitting = [
            query
            for query in story.queries
            if query.task == task and CONTEXT[0] <= query.position <= CONTEXT[1]
        ]
        if fitting:
            yield story.words, rng.choice(fitting)


def _place(choices: Sequence[str], answer: str, slot: int, rng: random.Random) -> tuple[str, ...]:
    """Orders the choices at random with the answer in the given slot."""
    wrong = [choice for choice in choices if choice != answer]
    rng.shuffle(wrong)
    return (*wrong[:slot], answer, *wrong[slot:])


def questions(task: str, count: int, seed: int) -> Iterator[Question]:
    """Writes `count` different questions of a task; a shorter set is the start of a longer one.

    The kinds of question take turns, and so do the places of the answer among the choices, so any
    prefix of the set is mixed alike.
    """
    rng = random.Random(f"places {task} {seed}")
    kinds = Counter(dict.fromkeys(TASK_KINDS[task], 0))
    seen: set[str] = set()
    slots: dict[str, list[int]] = {kind: [] for kind in kinds}
    for words, query in _candidates(task, seed):
        if len(seen) == count:
            return
        prompt = " ".join(words[: query.position])
        rounds = min(number // SHARES.get(kind, 1) for kind, number in kinds.items())
        if prompt in seen or kinds[query.kind] >= SHARES.get(query.kind, 1) * (rounds + 1):
            continue
        seen.add(prompt)
        kinds[query.kind] += 1
        answer = " ".join(query.answer)
        choices = query.choices
        if choices:
            if not slots[query.kind]:
                slots[query.kind] = rng.sample(range(len(choices)), len(choices))
            choices = _place(choices, answer, slots[query.kind].pop(), rng)
        yield Question(prompt, answer, choices, query.kind)
