"""The report, as text and as a browser shows it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ebm_export.calibration.latency import Latency
from ebm_export.calibration.metrics.likelihood import LogPartition
from ebm_export.calibration.report import render_report, table
from ebm_export.calibration.sample_figures import SampleFigures

from ..made_comparison import gate, lost, made_comparison, no_floor, one_mode, rare, ratio
from .browser import Browser, open_browser

SHAPES = {"images": (3, 8, 8), "points": (2,), "numbers": (1,), "strips": (7,)}


class Reader(HTMLParser):
    """Collects the text and what the page refers to, and checks that tags are closed."""

    VOID = frozenset({"meta", "img", "link", "br", "input", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.references: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.references += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "data")]
        assert tag != "script"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """An empty element of SVG."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def read(page: str) -> tuple[str, list[str]]:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return re.sub(r"\s+", " ", " ".join(reader.text)), reader.references


class TestText:
    def test_only_the_reference_is_what_the_others_are_compared_with(self) -> None:
        """Samples that are all one point have no spread, and no distance under the same noise relative to it."""
        found = made_comparison()
        engines = tuple(dataclasses.replace(engine, same_noise_distance=None) for engine in found.engines)
        text, _ = read(render_report(dataclasses.replace(found, engines=engines)))
        pictures = text.partition("Samples side by side")[2].partition("The gate, metric by metric")[0]
        assert pictures.count("What the others are compared with.") == 1
        assert pictures.count("FP32's samples have no spread") == len(found.pictures) - 1

    def test_engines_that_are_infinitely_far_off_are_named_below_the_chart(self) -> None:
        found = made_comparison()
        engines = [
            dataclasses.replace(engine, gate=gate(verdict) if verdict else engine.gate)
            for engine, verdict in zip(found.engines, (None, no_floor("modes", 0.2), lost(), *[None] * 3), strict=True)
        ]
        text, _ = read(render_report(dataclasses.replace(found, engines=tuple(engines))))
        assert "Not in the chart, infinitely far beyond the gate: int8 openvino, ort static." in text
        assert text.count("infinite →") == 2
        assert "not measured" not in text
        assert "Not in the chart" not in read(render_report(found))[0]

    def test_bounds_that_crossed_are_not_to_be_trusted(self) -> None:
        found = made_comparison()
        assert found.likelihood is not None
        assert "changed places" not in read(render_report(found))[0]
        crossed = dataclasses.replace(found.likelihood, log_z=LogPartition(-300.0, 0.4, -310.0, 0.6, 0.66))
        assert "changed places" in read(render_report(dataclasses.replace(found, likelihood=crossed)))[0]

    def test_the_numbers_of_each_stage_stand_in_a_table(self) -> None:
        text, _ = read(render_report(made_comparison()))
        table = text.partition("All numbers, stage by stage")[2]
        head = "steps taken 1 − cosine worst cosine gain bias noise states"
        assert table.count(head) == 3  # one table for each engine with gradients
        assert "275 steps taken 0.0025 0.9 0.5 % ± 1 % 1 % ± 1 % 5 % 64" in table.partition("ort static")[0]
        assert "275 steps taken 0.36 0.9 6 % ± 1 % 12 % ± 1 % 60 % 64" in table.partition("ort static")[2]

    def test_refers_to_nothing_outside(self) -> None:
        page = render_report(made_comparison())
        _, references = read(page)
        assert references and all(reference.startswith("data:image/png;base64,") for reference in references)
        assert "url(" not in page and "@import" not in page

    def test_says_what_every_part_found(self) -> None:
        text, _ = read(render_report(made_comparison()))
        for said in (
            "digits and other: FP32 beside 5 engines",
            "1 of 5 candidates draws the same samples as FP32, as far as 400 chains can tell",
            "The fastest that passes is int8 openvino: 3.3 times as fast per step as fp32 openvino, at 0.28 times its size",
            "Not to be used in FP32's place: ort static, bf16 openvino, fp16 onnxruntime, other: fp32 openvino",
            "Its samples pass, its gradient does not",  # bf16
            "Its chains diverge: 3 of 400 chains",
            "int8 tensorrt (the package tensorrt is not installed)",
            "Energy from RAPL package-0",
            "ort static draws too few of modes 4, 5",
            "first layer: a step of INT8 is as large as the noise",
            "10 layers: 8 in int8, 2 in fp32",
            "Left out for other: another model has another gradient",
            "0.981",  # AUROC
            "fp32 openvino 0.95 0.94 1.01 0.97 2.16 1.03 512 – – "
            "int8 openvino 0.946 0.93 0.99 0.96 2.31 1.04 498 0.934 (0.921 to 0.946) 0.57 "
            "What these are",  # engines without any of these have no row
            "in steps 150 to 300 of 16 chains under one condition",
            "ESS of 1024",
            "off under same noise 21 % blocks accepted 0.934",  # the card
            "45 blocks of 5 steps of 64 chains, which begin at FP32's samples: the mean probability with its 95 % interval, at T = 0.5.",
            "No acceptance of exact sampling for other: fp32 openvino: it holds another model.",
            "log p(x) = −E(x)/T − log Z at T = 0.5.",
            "the given data −45 −43.7 fp32 openvino −41.5 −40.2 int8 openvino −42.5 −41.2",
            "log Z is at least −310.2 ± 0.4 and at most −308.9 ± 0.6, by annealed importance sampling over 200 temperatures",
            "Fréchet distance in all 2048 features, between sets of 400 samples",
            "reference 0, candidates 1, trajectory 2",
        ):
            assert said in text, said

    def test_classes_have_the_numbers_of_their_network(self) -> None:
        found = made_comparison()
        assert found.modes is not None
        modes = dataclasses.replace(found.modes, classes=True)
        page = render_report(dataclasses.replace(found, modes=modes))
        text, _ = read(page)
        for said in ("FP32's samples fall into 5 classes.", "ort static draws too few of classes 3, 4", "class 4"):
            assert said in text, said
        assert "<title>class 4, FP32: " in page and "<title>mode " not in page
        assert "the largest first" not in text and "the largest first" in read(render_report(found))[0]

    @pytest.mark.parametrize("rare", [True, False])
    def test_what_is_said_of_modes_is_said_of_classes(self, rare: bool) -> None:
        """Beside the names of metrics, which are the gate's."""
        found = made_comparison(SHAPES["images"])
        assert found.modes is not None
        modes = found.modes if rare else dataclasses.replace(found.modes, rare=(), lost={})
        parts = []
        for classes in (False, True):
            shown = dataclasses.replace(found, modes=dataclasses.replace(modes, classes=classes))
            page = render_report(shown)
            begin = page.index(", the rare ones too</h2>")
            parts.append(page[page.rindex("<h2>", 0, begin) : page.index("<h2>", begin)])
        of_clusters, of_classes = parts
        assert not re.search(r"\bmodes?\b", of_classes.replace('class="modes"', ""), re.IGNORECASE)
        for said in (
            "<h2>Classes, the rare",
            "<h3>Rare classes</h3>",
            "of each class</h3>",
            "a rare class,",
            "shares of the classes",
        ):
            assert said in of_classes, said
        assert ("<th>class</th>" in of_classes) == ("<th>mode</th>" in of_clusters) == rare
        for said in (
            "<h2>Modes, the rare",
            "<h3>Rare modes</h3>",
            "of each mode</h3>",
            "a rare mode,",
            "shares of the modes",
        ):
            assert said in of_clusters, said
        if not rare:
            assert "No class holds less" in of_classes and "No engine draws a class" in of_classes
            assert "No mode holds less" in of_clusters and "No engine draws a mode" in of_clusters

    def test_it_says_why_shares_of_wide_samples_are_left_out(self) -> None:
        found = made_comparison()
        wide = SampleFigures(400, 5, None, None, None, None, too_wide=150_528)
        said = "left out: samples are compared by 150528 numbers each"
        assert said not in read(render_report(found))[0]
        for others in ({}, {"mixing": None, "exact": None}):
            engines = tuple(
                dataclasses.replace(engine, figures=engine.figures and wide, **others) for engine in found.engines
            )
            text, _ = read(render_report(dataclasses.replace(found, engines=engines)))
            assert said in text and ("None of these passes" in text) == (not others)

    def test_where_modes_are_many_it_says_which_are_shown(self) -> None:
        found = made_comparison()
        assert found.modes is not None and found.mode_pictures is not None
        modes = dataclasses.replace(found.modes, shown=(0, 2))
        page = render_report(dataclasses.replace(found, modes=modes, mode_pictures=found.mode_pictures[:2]))
        text, _ = read(page)
        for said in (
            "fall into 5 clusters. 2 of them are shown",
            "FP32 has no sample of the 1 that hold less than half",
        ):
            assert said in text, said
        assert [page.count(f"the middle of mode {mode}") for mode in range(1, 6)] == [1, 0, 1, 0, 0]
        assert "<title>mode 3, FP32: 0.25" in page and "<title>mode 4" not in page

    @pytest.mark.parametrize("look", SHAPES)
    def test_every_kind_of_sample(self, look: str) -> None:
        text, references = read(render_report(made_comparison(SHAPES[look])))
        assert "drawn with the same seed and the same noise" in text
        assert bool(references) == (look in ("images", "strips"))

    def test_images_are_shown_between_the_bounds(self) -> None:
        text, _ = read(render_report(made_comparison(bounds=[-1.0, 1.0])))
        assert "Black is −1, white 1." in text

    def test_names_are_text(self) -> None:
        found = made_comparison()
        name = "<u>&\"'"
        renamed = dataclasses.replace(found.engines[2], name=name)
        engines = tuple(renamed if engine is found.engines[2] else engine for engine in found.engines)
        pictures = {name if key == "ort static" else key: value for key, value in found.pictures.items()}
        page = render_report(dataclasses.replace(found, engines=engines, pictures=pictures))
        text, _ = read(page)
        assert "<u>" not in page and name in text

    def test_one_mode_is_in_the_table_of_the_gate_and_not_in_its_chart(self) -> None:
        found = made_comparison()
        own = dataclasses.replace(found.engines[1], gate=gate(ratio("energy", 0.97), one_mode(), rare(0.1, 0.5)))
        text, _ = read(page := render_report(dataclasses.replace(found, engines=(found.first, own))))
        assert "one mode: nothing to compare" in text
        chart = page[page.index("metrics of int8 openvino") :].partition("</svg>")[0]
        assert "energy: ratio 0.97" in chart and "modes" not in chart
        assert table(dataclasses.replace(found, engines=(found.first, own)))[1]["worst ratio"] == "0.97 energy"

    def test_artifacts_with_the_same_layers_are_told_once(self) -> None:
        found = made_comparison()
        twin = dataclasses.replace(found.layers[0], artifact="score.int8.onnx")
        text, _ = read(render_report(dataclasses.replace(found, layers=(*found.layers, twin))))
        assert "digits: score.int8.openvino.xml, score.int8.onnx" in text
        assert text.count("10 layers: 8 in int8, 2 in fp32") == 1

    def test_parts_that_were_not_measured_are_left_out(self) -> None:
        found = made_comparison()
        engines = tuple(
            dataclasses.replace(
                engine,
                fidelity=(),
                auroc=None,
                figures=None,
                mixing=None,
                exact=None,
                not_exact="",
                energy=None,
                latency=(),
            )
            for engine in found.engines
        )
        text, _ = read(
            render_report(
                dataclasses.replace(found, engines=engines, modes=None, layers=(), not_run=(), likelihood=None)
            )
        )
        for title in (
            "The gradient along the chain",
            "Modes",
            "Telling outliers apart",
            "Beside the gate",
            "Log-likelihood",
            "Which layers",
            "Not run here",
        ):
            assert title not in text


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def show(browser: Browser, page: Path, width: int, scheme: str) -> None:
    """Opens a page with all its parts, which must not be wider than the window."""
    browser.show(page, width, scheme)
    browser.ask("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert browser.ask("window.innerWidth") == width
    assert browser.ask("document.documentElement.scrollWidth") <= width
    wide = (
        "[...document.querySelectorAll('main *')].filter(part => part.getBoundingClientRect().right > innerWidth + 1)"
    )
    assert browser.ask(f"{wide}.map(part => part.outerHTML.slice(0, 120))") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("look", SHAPES)
def test_in_a_browser(look: str, width: int, scheme: str, browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(render_report(made_comparison(SHAPES[look])), encoding="utf-8")
    browser.requests()
    show(browser, page, width, scheme)
    assert browser.ask("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert browser.ask(
        "[...document.querySelectorAll('svg')].every(chart => chart.getBoundingClientRect().width > 200)"
    )
    page_colour, ink = browser.ask(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (page_colour, ink)]
    assert (brightness[0] > brightness[1]) == (scheme == "light")
    assert browser.console() == []
    own = ("data:", "chrome://")  # inline pictures, and the browser's own first page
    asked_for = [address for address in browser.requests() if not address.startswith(own)]
    assert asked_for == [page.as_uri()]
    browser.picture(tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 50_000


@pytest.mark.parametrize("width", [320, 360, 375, 390, 700])
def test_long_names_and_numbers_on_a_phone(width: int, browser: Browser, tmp_path: Path) -> None:
    found = made_comparison()
    name = "a_policy_with_a_name_that_somebody_wrote_without_a_space.seed3.2026-11-28"
    models = tuple(dataclasses.replace(model, name=name) for model in found.models)
    times = tuple(Latency(batch, 0.11951, 0.10612, 123.768, 9, 40) for batch in found.batches)
    *others, last = (dataclasses.replace(engine, latency=times) for engine in found.engines)
    engines = (*others, dataclasses.replace(last, name=f"{name}: fp32 openvino"))
    pictures = {**found.pictures, engines[-1].name: found.pictures[last.name]}
    page = tmp_path / "report.html"
    long = dataclasses.replace(found, models=models, engines=engines, pictures=pictures)
    page.write_text(render_report(long), encoding="utf-8")
    show(browser, page, width, "light")
    browser.picture(tmp_path / "report.png")


@pytest.mark.parametrize("width", [390, 861, 1280])
def test_headings_of_tables_do_not_break_within_a_word(width: int, browser: Browser, tmp_path: Path) -> None:
    """Notes and reasons that take all the room there is, and an engine in a heading whose name has to break."""
    found = made_comparison()
    told = " ".join(["a reason as long as some are"] * 8)
    renamed, long = found.engines[1].name, "a_policy_whose_name_has_no_space.seed3"

    def named(values: Mapping[str, Any]) -> dict[str, Any]:
        return {long if name == renamed else name: value for name, value in values.items()}

    engines = []
    for engine in found.engines:
        verdicts = [dataclasses.replace(verdict, note=told) for verdict in engine.gate.verdicts] if engine.gate else []
        gate = engine.gate and dataclasses.replace(engine.gate, verdicts=tuple(verdicts))
        name = long if engine.name == renamed else engine.name
        engines.append(dataclasses.replace(engine, name=name, gate=gate))
    assert found.modes is not None
    share, chances, lost = (named(part) for part in (found.modes.share, found.modes.loss_p_value, found.modes.lost))
    modes = dataclasses.replace(found.modes, share=share, loss_p_value=chances, lost=lost)
    nodes = tuple(dataclasses.replace(node, reason=told) for node in found.layers[0].nodes)
    layers = (dataclasses.replace(found.layers[0], nodes=nodes),)
    pictures = named(found.pictures)
    page = tmp_path / "report.html"
    page.write_text(
        render_report(
            dataclasses.replace(found, engines=tuple(engines), modes=modes, layers=layers, pictures=pictures)
        ),
        encoding="utf-8",
    )
    show(browser, page, width, "light")
    heads = "[...document.querySelectorAll('thead tr')].filter(row => row.offsetHeight > 0)"  # a phone shows none
    assert (browser.ask(f"{heads}.length") > 0) == (width > 860)
    # In a text of more lines than words one word is on two lines.
    text = "(part => { const text = new Range(); text.selectNodeContents(part); return text.getClientRects().length })"
    broken = f"part => {text}(part) > part.textContent.trim().split(/[ -]/).length"
    found_broken = browser.ask(f"{heads}.flatMap(row => [...row.cells].filter({broken})).map(part => part.textContent)")
    assert found_broken == ([long] if width == 861 else [])
    if width == 1280:  # a line of text of 0.8rem, padding and border
        gate = f"{heads}.filter(row => row.textContent.startsWith('metric')).map(row => row.offsetHeight)"
        assert max(browser.ask(gate)) < 2 * 1.5 * 0.8 * 16
