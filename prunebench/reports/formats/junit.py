"""JUnit XML, the form of pytest's ``xunit2``, with every number as a property of its case."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from xml.etree import ElementTree as ET

from ...errors import inert
from ..sentences import lines, sentence
from .export_format import Format
from .items import Item, Judged

#: Characters that XML 1.0 cannot represent.
_UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def text(run: Judged) -> str:
    """The file: a test suite per case file, a test case per case.

    A regression is a failure, a crash an error. Characters that XML lacks are escaped.
    """
    root = ET.Element("testsuites", name="prunebench")
    _count(root, run, run.items)
    for file, group in groupby(run.items, key=lambda i: i.case_id.rpartition("/")[0]):
        items = tuple(group)
        suite = ET.SubElement(root, "testsuite", name=_clean(file or "prunebench"))
        _count(suite, run, items)
        suite.set("timestamp", _clean(next((i.record.created for i in items if i.record), "")))
        hosts = (i.record.provenance.host for i in items if i.record)
        suite.set("hostname", _clean(next(hosts, "")))
        for item in items:
            suite.append(_case(run, item))
    ET.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def properties(item: Item) -> Iterator[tuple[str, str]]:
    """Name and value of each property of a case.

    A measurement has its own name; the suffixes ``.was``, ``.allowed``, ``.p`` and ``.outcome`` say
    how it was judged.
    """
    yield "outcome", item.verdict.outcome
    if (record := item.record) is not None:
        yield "model", record.model_id
        yield "protocol", record.asked.get("protocol") or ""
        yield "device", record.environment.device
        yield "sparsity", repr(record.sparsity)
        for measurement in record.measurements:
            value = measurement.value
            yield measurement.metric, "" if value is None else repr(value)
    for finding in item.verdict.findings:
        yield f"{finding.what}.outcome", str(finding.outcome)
        for name in ("was", "allowed", "p"):
            if (value := getattr(finding, name)) is not None:
                yield f"{finding.what}.{name}", repr(value)


def _count(element: ET.Element, run: Judged, items: Sequence[Item]) -> None:
    errors = sum(bool(i.verdict.error) for i in items)
    skipped = sum(bool(i.verdict.skipped) for i in items)
    failures = sum(run.failed(i) and not i.verdict.error for i in items)
    for name, count in (("errors", errors), ("failures", failures), ("skipped", skipped)):
        element.set(name, str(count))
    element.set("tests", str(len(items)))
    element.set("time", f"{sum(i.seconds for i in items):.3f}")


def _case(run: Judged, item: Item) -> ET.Element:
    file, _, label = item.case_id.rpartition("/")
    classname = _clean(file.replace("/", "."))
    case = ET.Element("testcase", classname=classname, name=_clean(label))
    case.set("time", f"{item.seconds:.3f}")
    named = ET.SubElement(case, "properties")
    for name, value in properties(item):
        ET.SubElement(named, "property", name=_clean(name), value=_clean(value))
    verdict = item.verdict
    if verdict.skipped:
        ET.SubElement(case, "skipped", type="prunebench.skip", message=_clean(verdict.skipped))
    elif verdict.error:
        _explain(case, "error", verdict.error, "crashed", item)
    elif run.failed(item):
        bad = [f for f in item.decisive if f.outcome not in ("same", "better")]
        worst = [f for f in bad if f.outcome == verdict.outcome or f.fails] or bad
        message = sentence(worst[0]) if worst else verdict.outcome
        _explain(case, "failure", message, verdict.outcome, item)
    return case


def _explain(case: ET.Element, kind: str, message: str, outcome: str, item: Item) -> None:
    found = ET.SubElement(case, kind, message=_clean(message), type=f"prunebench.{outcome}")
    command = [f"reproduce: {item.reproduce}"] if item.reproduce else []
    body = "\n".join(inert(line) for line in [*lines(item.verdict), *command])
    found.text = _writable(body)


def _clean(value: str) -> str:
    """One line of an attribute."""
    return _writable(inert(value))


def _writable(value: str) -> str:
    return _UNWRITABLE.sub(lambda m: m[0].encode("unicode_escape").decode(), value)


FORMATS = (Format("junit", ".xml", lambda export: text(export.judged())),)
