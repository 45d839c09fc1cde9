"""The report in a real browser: Chromium, headless, from file:// with the network cut off.

What is drawn is compared with the records. Run with
``pytest -m slow tests/views/report/test_browser.py``.
"""

from __future__ import annotations

import itertools
import re
import time
from dataclasses import replace

import numpy as np
import pytest

from lowrank import load_run
from lowrank.cli import main
from lowrank.measure.layers import Layer
from lowrank.views.report.write import write_report
from tests.views.report.browsing import LAPTOP, csv_of, fits, named, opened, picture, plot, selector
from tests.views.report.records import copy, layers_of, write
from tests.views.table.records import make_run

pytestmark = pytest.mark.slow

MEAN = "mean of hidden layers"
EVIL = "<script>window.hacked=1</script><b onclick=alert(1)>bold</b>"


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    directory = tmp_path_factory.mktemp("one")
    bound = {"rank_bound/linear2": np.r_[np.nan, np.full(20, 25.0)]}
    record = write(directory / "run", sizes=(16, 32, 32), weight_decay=0.1, more=bound)
    write_report([record], directory / "report.html", command="lowrank report run")
    return load_run(record), directory / "report.html"


def test_one_run_shows_what_its_record_holds(browser, one):
    run, path = one
    with opened(browser, path) as page:
        assert page.title() == "run: ranks"
        assert page.get_attribute("html", "lang") == "en"
        for layer in run.layers:
            name = f"{layer.name} ({min(layer.shape)})"
            assert named(page, "-ranks", name) == run.metrics[f"rank/{layer.name}"].tolist()
        mean = named(page, "-ranks", "mean of hidden layers")
        np.testing.assert_allclose(mean, run.metrics["rank_mean"], rtol=1e-6)
        dotted = [
            t for t in plot(page, "-ranks")["data"] if (t.get("line") or {}).get("dash") == "dot"
        ]
        assert [t["y"][1:] for t in dotted] == [[25.0] * 20]
        heat = plot(page, "-heatmap")
        shares = [run.metrics[f"rank/{layer.name}"] / min(layer.shape) for layer in run.layers]
        np.testing.assert_allclose(np.array(heat["data"][0]["z"], float), shares, rtol=1e-6)
        assert heat["layout"]["yaxis"]["ticktext"][0] == "linear1 (16)"
        bottom, top = heat["layout"]["yaxis"]["range"]
        assert bottom > top  # the first layer is on top
        accuracy = named(page, "-accuracy", "test accuracy")
        np.testing.assert_allclose(accuracy, 100 * run.metrics["test_accuracy"], rtol=1e-6)
        norm = named(page, "-norms", "linear1 (16)")
        np.testing.assert_allclose(norm, run.metrics["frobenius_norm/linear1"], rtol=1e-6)
        titles = [plot(page, name)["layout"][axis]["title"]["text"]
                  for name in ("-ranks", "-heatmap", "-spectra", "-accuracy", "-loss", "-norms")
                  for axis in ("xaxis", "yaxis")]  # fmt: skip
        assert all(titles)
        assert "accuracy in %" in titles
        assert fits(page)


def test_what_is_measured_beside_the_weights_is_shown_on_request(browser, tmp_path):
    layers = layers_of((16, 32))
    beside = [replace(each, name=f"{each.name}_update", kind="update") for each in layers]
    run = load_run(write(tmp_path / "run", layers=[*layers, *beside], weight_decay=0.1))
    write_report([run.path], tmp_path / "report.html")
    with opened(browser, tmp_path / "report.html") as page:
        for kind, own in (("weight", layers), ("update", beside), ("weight", layers)):
            selector(page, "Matrices").select_option(kind)
            picks = selector(page, "Highlight layer").locator("option").all_text_contents()
            assert picks == ["all", *(layer.name for layer in own)]
            for layer in own:
                ranks = named(page, "-ranks", f"{layer.name} ({min(layer.shape)})")
                assert ranks == run.metrics[f"rank/{layer.name}"].tolist()
            for panel in ("-ranks", "-spectra", "-any-epsilon", "-norms"):
                names = {trace["name"] for trace in plot(page, panel)["data"]} - {MEAN}
                assert names == {f"{layer.name} ({min(layer.shape)})" for layer in own}
            means = [trace for trace in plot(page, "-ranks")["data"] if trace["name"] == MEAN]
            assert len(means) == (kind == "weight")
        assert fits(page)


def test_the_slider_moves_the_spectrum(browser, one):
    run, path = one
    with opened(browser, path) as page:
        for epoch in (0, 7, 20):
            page.locator(".slider input").fill(str(epoch))
            assert page.locator(".slider output").inner_text() == f"epoch {epoch}"
            s = run.spectra["linear2"][epoch]
            np.testing.assert_allclose(
                named(page, "-spectra", "linear2 (32)"), s / np.sqrt((s**2).sum()), rtol=1e-6
            )
        before = picture(page, "-spectra")
        page.locator(".slider input").press("Home")
        assert page.locator(".slider output").inner_text() == "epoch 0"
        assert picture(page, "-spectra") != before


def test_ranks_at_any_epsilon_are_counted_in_the_spectra(browser, one):
    run, path = one
    with opened(browser, path) as page:
        name = "linear3 (32)"
        assert named(page, "-any-epsilon", name) == run.metrics["rank/linear3"].tolist()
        page.locator(".epsilon input").fill("-1.4")
        assert page.locator(".epsilon output").inner_text() == "0.0398"
        s = run.spectra["linear3"]
        truth = (s / np.sqrt((s**2).sum(1, keepdims=True)) > 0.0398).sum(1)
        assert named(page, "-any-epsilon", name) == truth.tolist()
        lines = [shape["y0"] for shape in plot(page, "-spectra")["layout"]["shapes"]]
        assert lines == [1e-3, 1e-2, 0.0398]
        # Of a spectrum of which not all values are in the page, what lies between is estimated.
        values = np.exp(-np.arange(400) / 40)
        shown = np.unique(np.linspace(0, 399, 100).round().astype(int))
        arguments = [values[shown].tolist(), (shown + 1).tolist()]
        for epsilon in (2.0, 0.3, 0.01, 1e-9):
            got = page.evaluate("([v, i, e]) => countAbove(v, i, e)", [*arguments, epsilon])
            assert abs(got - (values > epsilon).sum()) <= 1


def test_a_collapsed_matrix_has_no_rank_at_any_epsilon(browser, tmp_path):
    write(tmp_path / "run", epochs=6, collapse_at=3, state="collapsed")
    write_report([tmp_path / "run"], tmp_path / "report.html")
    with opened(browser, tmp_path / "report.html") as page:
        ranks = named(page, "-any-epsilon", "linear1 (16)")
        assert [rank is None for rank in ranks] == [False] * 3 + [True] * 4


def test_the_head_says_what_the_runs_have_in_common(browser, sweep, tmp_path):
    (tmp_path / "trend.yaml").write_text(
        "program: train.py\nname: trend\ndescription: What does decay do?\nmethod: grid\n"
        "metric: {name: rank_mean, goal: minimize}\nparameters:\n  epochs: {value: 10}\n"
        "  weight_decay: {values: [0.0, 0.01, 0.02]}\n  batch_size: {values: [8, 16]}\n"
        "  seed: {values: [0, 1]}\n"
    )
    write_report([sweep], tmp_path / "r.html", sweep=str(tmp_path / "trend.yaml"))
    with opened(browser, tmp_path / "r.html") as page:
        assert page.title() == "trend: ranks"
        assert page.locator("h1").inner_text() == "trend"
        head = page.locator("header").inner_text()
        for words in (
            "What does decay do?", "12 runs: 9 finished", "What varies: weight decay (0, 0.01, ",
            "mlp, depth 5, width 100", "digits", "momentum 0", "learning rate 0.1", "c0ffeec0ff",
        ):  # fmt: skip
            assert words in head
        assert not any(words in head for words in ("gamma", "vit", "dropout"))


@pytest.mark.parametrize("width", [800, 1400])
def test_tool_icons_cover_no_data(browser, many, width):
    with opened(browser, many, {"width": width, "height": 900}) as page:
        section = page.locator("details.run").first
        section.locator("summary").first.click()
        page.wait_for_selector("details.run[open] .main-svg")
        for panel in page.locator(".plot").all():
            if not panel.is_visible() or not panel.locator(".modebar").count():
                continue
            icons = panel.locator(".modebar").bounding_box()
            for area in panel.locator(".draglayer .nsewdrag").all():
                data = area.bounding_box()
                assert icons["y"] + icons["height"] <= data["y"] + 1


def test_every_plot_of_a_run_gives_its_numbers(browser, one):
    run, path = one
    with opened(browser, path) as page:
        panel = page.locator("figure[data-name$='-ranks']")
        rows = csv_of(page, panel)
        ranks = [float(row["rank"]) for row in rows if row["layer"] == "linear3"]
        assert ranks == run.metrics["rank/linear3"].tolist()
        selector(page, "Quantity").select_option("stable_rank")
        rows = csv_of(page, panel)
        stable = [float(row["stable_rank"]) for row in rows if row["layer"] == "linear3"]
        np.testing.assert_allclose(stable, run.metrics["stable_rank/linear3"], rtol=1e-6)
        for name in ("heatmap", "spectra", "accuracy", "loss", "norms"):
            assert len(csv_of(page, page.locator(f"figure[data-name$='-{name}']"))) > 20
        page.locator("summary", has_text="Layers (4)").click()
        rows = csv_of(page, page.locator("details[open]"))
        assert [row["layer"] for row in rows] == ["linear1", "linear2", "linear3", "classifier"]
        assert float(rows[1]["rank at the end"]) == run.metrics["rank/linear2"][-1]


@pytest.fixture(scope="module")
def many(sweep, tmp_path_factory):
    path = tmp_path_factory.mktemp("many") / "report.html"
    write_report([sweep], path, command="lowrank report runs")
    return path


def test_random_points_are_scattered_and_own_metrics_can_be_chosen(browser, tmp_path):
    rng = np.random.default_rng(0)
    places = {f"r{i}": (10 ** rng.uniform(-3, 0), rng.uniform(0, 0.9)) for i in range(20)}
    metric = {"my_metric": np.linspace(-1, 1, 21)}
    for name, (lr, momentum) in places.items():
        write(tmp_path / name, sizes=(8, 8), lr=lr, momentum=momentum, more=metric)
    write_report([tmp_path], tmp_path / "report.html")
    with opened(browser, tmp_path / "report.html") as page:
        points = plot(page, "landscape")["data"][0]
        assert points["type"] == "scatter"
        drawn = sorted(zip(points["x"], points["y"], strict=True))
        np.testing.assert_allclose(drawn, sorted(places.values()))
        settings = plot(page, "settings")
        np.testing.assert_allclose(
            sorted(settings["data"][0]["x"]), sorted(lr for lr, _ in places.values())
        )
        assert settings["layout"]["xaxis"]["type"] == "log"
        assert settings["layout"]["xaxis2"]["type"] == "linear"
        lines = plot(page, "parallel")["data"]
        assert sum(line["x"].count(0) for line in lines) == len(places)
        selector(page, "Rank").select_option("my_metric")
        curve = next(t for t in plot(page, "curves")["data"] if t.get("text"))
        np.testing.assert_allclose(curve["y"][:21], metric["my_metric"], atol=1e-6)


def test_what_was_not_recorded_has_no_panel(browser, tmp_path):
    import torch

    import lowrank

    watcher = lowrank.watch(torch.nn.Sequential(torch.nn.Linear(6, 5)), record=tmp_path / "mine")
    for epoch in range(3):
        watcher.log(epoch, loss=1.0 / (epoch + 1), my_metric=float(epoch))
    write_report([tmp_path / "mine"], tmp_path / "report.html")
    with opened(browser, tmp_path / "report.html") as page:
        assert "was recorded" not in page.locator("figure").all_inner_texts()
        for name in ("accuracy", "loss"):
            assert page.locator(f"figure[data-name$='-{name}']").count() == 0
        assert named(page, "-metrics", "loss") == pytest.approx([1, 1 / 2, 1 / 3])
        selector(page, "Metric").select_option("my_metric")
        assert named(page, "-metrics", "my_metric") == [0, 1, 2]


def colours(page):
    traces = plot(page, "curves")["data"]
    return [t["name"] for t in traces if t.get("showlegend") is not False and t["mode"] == "lines"]


def test_colours_follow_the_chosen_setting(browser, many):
    with opened(browser, many) as page:
        assert colours(page) == ["0", "0.01", "0.02"]
        before = picture(page, "curves"), picture(page, "scatter")
        selector(page, "Colour by").select_option(label="batch size")
        assert colours(page) == ["8", "16"]
        after = picture(page, "curves"), picture(page, "scatter")
        assert before[0] != after[0]
        assert before[1] != after[1]


def test_replicates_are_averaged(browser, many, sweep):
    runs = [load_run(sweep / name) for name in ("run04", "run05")]  # differ in their seed
    mean = np.mean([run.metrics["rank_mean"] for run in runs], axis=0)
    deviation = np.std([run.metrics["rank_mean"] for run in runs], axis=0, ddof=1)
    with opened(browser, many) as page:
        page.get_by_label("mean ± sd over seeds").check()
        rows = csv_of(page, page.locator("figure[data-name=curves]"))
        own = [
            r
            for r in rows
            if r["point"] == "weight_decay=0.01 batch_size=8" and r["quantity"].startswith("rank")
        ]
        np.testing.assert_allclose([float(row["mean"]) for row in own], mean, rtol=1e-5)
        np.testing.assert_allclose(
            [float(row["sd"]) for row in own], deviation, rtol=1e-3, atol=1e-4
        )
        assert {row["n"] for row in own} == {"2"}


def test_one_setting_and_seeds_make_no_landscape(browser, tmp_path):
    for n in range(4):
        make_run(tmp_path / f"r{n}", [16, 9], lr=(0.1, 0.2)[n % 2], seed=n // 2)
    page_file = tmp_path / "r.html"
    assert main(["report", str(tmp_path), "-o", str(page_file)]) == 0
    with opened(browser, page_file) as page:
        assert page.locator("figure[data-name=settings]").count() == 1
        assert page.locator("figure[data-name^=landscape]").count() == 0


def test_the_landscape_follows_its_selectors(browser, many, sweep):
    with opened(browser, many) as page:
        grid = plot(page, "landscape")["data"]
        assert (grid[1]["x"], grid[1]["y"]) == (["0", "0.01", "0.02"], ["8", "16"])
        last = [load_run(sweep / name).metrics["rank_mean"][-1] for name in ("run04", "run05")]
        assert grid[1]["z"][0][1] == pytest.approx(np.mean(last), rel=1e-5)
        assert grid[1]["z"][0][2] is None  # collapsed: no rank, marked
        assert grid[0]["text"][0][2] == "× no rank"
        before = picture(page, "landscape")
        selector(page, "Up").select_option(label="seed")
        assert plot(page, "landscape")["data"][1]["y"] == ["0", "1"]
        assert picture(page, "landscape") != before
        accuracy = plot(page, "landscape-accuracy")["data"]
        assert accuracy[1]["y"] == ["0", "1"]
        last = [load_run(sweep / f"run{n:02}").metrics["test_accuracy"][-1] for n in (0, 2)]
        assert accuracy[1]["z"][0][0] == pytest.approx(100 * np.mean(last), rel=1e-5)
        before = plot(page, "landscape")["data"][1]["z"]
        selector(page, "Rank").select_option(label="average rank at ε = 0.01")
        assert plot(page, "landscape")["data"][1]["z"] != before
        rows = csv_of(page, page.locator("figure[data-name=landscape]"))
        assert len(rows) == 6
        assert {row["n"] for row in rows} <= {"0", "1", "2"}


def test_spectra_and_norm_ratios_follow_layer_colour_and_filter(browser, many, sweep):
    with opened(browser, many) as page:
        runs = [load_run(sweep / name) for name in ("run04", "run05")]  # differ in their seed
        page.get_by_label("Filter").fill("batch_size=8")
        page.wait_for_function("() => document.querySelectorAll('#runs tbody tr').length === 6")
        panel = page.locator("figure[data-name=spectra-of-runs]")
        panel.locator("select").select_option(label="linear3")
        relative = [s / np.sqrt((s**2).sum()) for s in (run.spectra["linear3"][-1] for run in runs)]
        drawn = plot(page, "spectra-of-runs")
        assert drawn["layout"]["yaxis"]["type"] == "log"
        assert [shape["y0"] for shape in drawn["layout"]["shapes"]] == [1e-3, 1e-2]
        assert drawn["layout"]["shapes"][0]["line"]["dash"] == "dash"
        lines = [t for t in drawn["data"] if t["mode"] == "lines" and len(t["x"]) == 33]
        assert [t["legendgroup"] for t in lines] == ["0", "1"]  # that of 0.02 collapsed
        np.testing.assert_allclose(lines[1]["y"][:-1], np.mean(relative, 0), rtol=1e-5)
        assert lines[1]["x"][:-1] == list(range(1, 33))
        rows = csv_of(page, panel)
        own = [row for row in rows if row["point"] == "weight_decay=0.01 batch_size=8"]
        np.testing.assert_allclose([float(row["sd"]) for row in own], np.std(relative, 0, ddof=1),
                                   rtol=1e-3, atol=1e-7)  # fmt: skip
        panel = page.locator("figure[data-name=ratios]")
        panel.locator("select").select_option(label="linear1")
        norms = np.mean([run.metrics["frobenius_norm/linear1"] for run in runs[:1]], 0)
        page.get_by_label("mean ± sd over seeds").uncheck()
        rows = csv_of(page, panel)
        own = [float(row["norm_ratio"]) for row in rows if row["run"] == "run04"]
        np.testing.assert_allclose(own, norms[2::2] / norms[:-2:2], rtol=1e-6)
        dashed = [
            t for t in plot(page, "ratios")["data"]
            if t["line"].get("dash") == "dash" and t["x"][0] is not None
        ]  # fmt: skip
        decay = (1 - 0.1 * 0.01) ** (2 * 180)  # two epochs of 1,440 digits in batches of 8
        np.testing.assert_allclose(dashed[1]["y"][:5], np.full(5, decay), rtol=1e-6)
        before = picture(page, "spectra-of-runs")
        selector(page, "Colour by").select_option(label="seed")
        assert picture(page, "spectra-of-runs") != before


def column(page, name):
    heads = page.locator("#runs th").all_inner_texts()
    (place,) = [i for i, head in enumerate(heads) if head.rstrip(" ▲▼").replace("\n", " ") == name]
    return page.locator(f"#runs tbody tr td:nth-child({place + 1})").all_inner_texts()


def test_the_table_sorts_and_filters(browser, many):
    with opened(browser, many) as page:
        head = page.locator("#runs th button", has_text="effective rank")
        head.click()
        ranks = column(page, "effective rank")
        numbers = [float(text) for text in ranks if text != "no rank"]
        assert numbers == sorted(numbers)
        assert ranks[-2:] == ["no rank", "no rank"]
        head.click()
        ranks = column(page, "effective rank")
        assert [float(text) for text in ranks if text != "no rank"] == numbers[::-1]
        assert ranks[-2:] == ["no rank", "no rank"]
        search = page.get_by_label("Filter")
        for text, count in (
            ("weight_decay=0.01", 4), ("weight_decay>=0.01 batch_size=8", 4), ("run07", 1),
            ("weight_decay=0.005..0.015", 4), ("weight_decay=0.01.. batch_size=..8", 4),
            ("failed", 1), ("nothing of the kind", 0), ("", 12),
        ):  # fmt: skip
            search.fill(text)
            rows = page.locator("#runs tbody tr")
            page.wait_for_function(
                "n => document.querySelectorAll('#runs tbody tr').length === n", arg=count
            )
            assert rows.count() == count
        selector(page, "Ended").select_option("collapsed")
        assert sorted(column(page, "run")) == ["run08", "run09"]
        assert set(column(page, "ended")) == {"collapsed"}
        rows = csv_of(page, page.locator(".controls", has=page.locator("button.csv")).last)
        assert {row["run"] for row in rows} == {"run08", "run09"}


def test_panels_by_a_second_setting_share_their_axes(browser, many):
    with opened(browser, many, {"width": 1400, "height": 900}) as page:
        for name in ("curves", "spectra-of-runs"):
            assert page.locator(f"figure[data-name^='{name}']").count() == 1
        selector(page, "Panels by").select_option(label="batch size")
        for name in ("curves", "spectra-of-runs"):
            figures = page.locator(f"figure[data-name^='{name}']")
            assert figures.count() == 2
            left, right = (plot(page, end)["layout"] for end in (name, f"{name}-2"))
            for axis in ("xaxis", "yaxis"):
                assert left[axis]["range"] == right[axis]["range"]
        for figure, size in zip(
            page.locator("figure[data-name^=curves]").all(), (8, 16), strict=True
        ):
            assert f"batch size {size}" in figure.locator("h3").inner_text()
            points = {row["point"] for row in csv_of(page, figure)}
            assert points
            assert all(f"batch_size={size}" in point for point in points)
        selector(page, "Panels by").select_option(label="none")
        assert page.locator("figure[data-name^=curves]").count() == 1
        assert fits(page)


def test_the_share_of_variance_that_a_setting_explains_is_that_of_numpy(browser, many, sweep):
    runs = [load_run(path) for path in sorted(sweep.iterdir())]
    kept = [run for run in runs if np.isfinite(run.metrics["rank_mean"][-1])]
    values = np.array([run.metrics["rank_mean"][-1] for run in kept])
    with opened(browser, many) as page:
        rows = csv_of(page, page.locator("figure[data-name=importance]"))
    assert {row["setting"] for row in rows} == {"weight_decay", "batch_size", "seed"}
    for row in rows:
        levels = np.array([run.config[row["setting"]] for run in kept])
        groups = [values[levels == level] for level in np.unique(levels)]
        within = sum(group.var() * len(group) for group in groups) / (len(values) - len(groups))
        expected = max(0.0, 1 - within / values.var(ddof=1))
        assert float(row["share_of_variance"]) == pytest.approx(expected, abs=1e-5)
    shares = [float(row["share_of_variance"]) for row in rows]
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize("page_of", ["one", "many"])
def test_logarithmic_axes_have_ticks_that_can_be_read(browser, request, page_of):
    path = request.getfixturevalue(page_of)
    with opened(browser, path[1] if page_of == "one" else path) as page:
        axes = page.evaluate(
            """() => [...document.querySelectorAll(".plot")].filter(p => p._fullLayout)
              .flatMap(p => Object.entries(p._fullLayout)
              .filter(([name, axis]) => /^[xy]axis/.test(name) && axis.type === "log")
              .map(([, axis]) => [axis.range, axis.tickvals, axis.ticktext]))"""
        )
    assert axes
    for (low, high), values, texts in axes:
        inside = [v for v in values if low <= np.log10(v) <= high]
        assert 2 <= len(inside) <= 8
        for value, text in zip(values, texts, strict=True):
            power = re.fullmatch(r"(?:([\d.]+)·)?10<sup>−(\d+)</sup>", text)
            said = float(f"{power[1] or 1}e-{power[2]}") if power else float(text)
            assert said == pytest.approx(value)
            assert len(text) < 6 or power


def test_failed_and_collapsed_runs_are_marked_in_words(browser, many):
    with opened(browser, many) as page:
        lead = page.locator(".lead").inner_text()
        assert lead.startswith("9 finished, 2 collapsed, 1 failed.")
        marks = {
            t["name"]: len(t["x"]) for t in plot(page, "curves")["data"] if t["mode"] == "markers"
        }
        assert marks == {
            "collapsed: no rank from there on": 2,
            "not finished (failed, killed, stopped or running)": 1,
        }
        assert "2 of 12 runs have no rank" in page.locator("figure[data-name=scatter]").inner_text()


def test_a_page_that_is_written_again_loads_itself_and_keeps_what_was_chosen(browser, tmp_path):
    first = write(tmp_path / "runs" / "a", epochs=2, weight_decay=0.0, seed=0)
    for place, decay in enumerate((0.1, 0.0)):
        copy(first, tmp_path / "runs" / f"b{place}", weight_decay=decay, seed=place)
    write_report([tmp_path / "runs"], tmp_path / "report.html", reload=1)
    with opened(browser, tmp_path / "report.html") as page:
        assert "this page loads itself again" in page.locator("footer").inner_text()
        page.get_by_label("Filter").fill("seed=0")
        page.get_by_label("mean ± sd over seeds").uncheck()
        selector(page, "Colour by").select_option(label="seed")
        page.locator("details.run summary").first.click()
        copy(first, tmp_path / "runs" / "c", weight_decay=0.2, lr=0.2, seed=0)
        write_report([tmp_path / "runs"], tmp_path / "report.html")
        page.wait_for_function(
            "() => typeof DATA !== 'undefined' && DATA.runs.length === 4"
        )  # as nobody touches it
        page.wait_for_function("() => document.querySelectorAll('#runs tbody tr').length === 3")
        assert page.get_by_label("Filter").input_value() == "seed=0"
        assert not page.get_by_label("mean ± sd over seeds").is_checked()
        chosen = selector(page, "Colour by").evaluate("list => list.selectedOptions[0].text")
        assert chosen == "seed"
        assert page.locator("details.run[open]").count() == 1
        assert "loads itself" not in page.locator("footer").inner_text()


def test_a_section_opens_from_the_table(browser, many):
    with opened(browser, many) as page:
        page.locator("tr[data-run=run03] a").click()
        section = page.locator("details.run[open]")
        assert section.locator("h2").inner_text() == "run03"
        page.wait_for_selector("details.run[open] .main-svg")
        assert len(plot(page, "run03-ranks")["data"]) == 5


def test_two_runs_stand_side_by_side_at_the_same_epoch(browser, tmp_path):
    for name, decay in (("decay", 0.1), ("none", 0.0)):
        write(tmp_path / "runs" / name, weight_decay=decay)
    write_report([tmp_path / "runs"], tmp_path / "report.html")
    with opened(browser, tmp_path / "report.html") as page:
        boxes = [
            panel.bounding_box() for panel in page.locator("figure[data-name$='-ranks']").all()
        ]
        assert boxes[0]["y"] == pytest.approx(boxes[1]["y"], abs=2)
        assert boxes[0]["x"] + boxes[0]["width"] < boxes[1]["x"]
        page.locator(".slider input").first.fill("5")
        assert page.locator(".slider output").all_inner_texts() == ["epoch 5", "epoch 5"]
        page.locator(".slider input").last.fill("9")
        assert page.locator(".slider output").all_inner_texts() == ["epoch 9", "epoch 9"]
        page.locator(".epsilon input").first.fill("-1")
        assert page.locator(".epsilon output").all_inner_texts() == ["0.1", "0.1"]
        selector(page, "Quantity").last.select_option("stable_rank")
        titles = [plot(page, "-ranks", n)["layout"]["yaxis"]["title"]["text"] for n in (0, 1)]
        assert titles[0] == titles[1]
        assert "stable" in titles[0]
        for name in ("-ranks", "-norms"):
            ranges = [plot(page, name, which)["layout"]["yaxis"]["range"] for which in (0, 1)]
            assert ranges[0] == ranges[1]
        assert fits(page)


@pytest.mark.parametrize("decays", [(0.1,), (0.1, 0.0)], ids=["wide", "side by side"])
def test_no_spectrum_runs_through_the_names_of_the_dashed_lines(browser, tmp_path, decays):
    for seed, decay in enumerate(decays):
        write(tmp_path / "runs" / str(seed), seed=seed, weight_decay=decay)
    write_report([tmp_path / "runs"], tmp_path / "report.html")
    with opened(browser, tmp_path / "report.html") as page:
        panel = page.locator("figure[data-name$='-spectra']").first
        curves = [line.bounding_box() for line in panel.locator(".scatterlayer .js-line").all()]
        ends = [box["x"] + box["width"] for box in curves]
        names = panel.locator(".annotation-text").all()
        assert [name.text_content()[:3] for name in names] == ["ε ="] * 2
        assert all(name.bounding_box()["x"] > max(ends) for name in names)


def test_a_hostile_name_is_shown_and_not_run(browser, tmp_path):
    layers = (Layer(EVIL, EVIL, (4, 4), 1, True), Layer("head", "head", (2, 4), 1, False))
    for seed in (0, 1, 2):
        write(
            tmp_path / "runs" / str(seed), layers=layers, epochs=2, run_id=f"{EVIL}{seed}",
            seed=seed, dataset=EVIL if seed else "digits", environment={"host": EVIL},
        )  # fmt: skip
    write_report([tmp_path / "runs"], tmp_path / "report.html", command=EVIL)
    with opened(browser, tmp_path / "report.html") as page:
        page.locator("details.run summary").first.click()
        page.wait_for_selector("details.run[open] .main-svg")
        assert page.evaluate("window.hacked") is None
        assert page.locator("#runs tbody td").first.inner_text() == f"{EVIL}0"
        assert EVIL[:20] in page.locator("figure[data-name=curves] .legend").text_content()
        labels = page.locator("figure[data-name$='-heatmap'] .ytick text").all_text_contents()
        assert labels[0].startswith("<script>")
        assert page.locator("main b, main script, svg b").count() == 0


def test_links_and_errors_of_strangers_are_text(browser, tmp_path):
    link = "<a href='https://evil.example/'>click</a></script><script>window.hacked=1</script>"
    for seed in (0, 1):
        write(
            tmp_path / "runs" / str(seed), epochs=2, run_id=f"{link}{seed}", seed=seed, name=link,
            dataset=link if seed else "digits", environment={"command": link},
        )  # fmt: skip
    damaged = tmp_path / "runs" / "<img src=x onerror=window.hacked=1>" / "record.sqlite"
    damaged.parent.mkdir()
    damaged.write_text("no record" * 999)
    write_report([tmp_path / "runs"], tmp_path / "report.html", command=link)
    with opened(browser, tmp_path / "report.html") as page:
        page.locator("details.run summary").first.click()
        page.wait_for_selector("details.run[open] .main-svg")
        assert page.evaluate("window.hacked") is None
        assert page.locator("a[href*=evil], svg a, img[src=x]").count() == 0
        shown = page.locator("body").inner_text()
        assert "onerror=window.hacked=1" in shown  # the note on what was left out
        assert link in shown


def test_54_layers_have_labels_that_do_not_overlap(browser, tmp_path):
    names = [f"layer{i // 13 + 1}_{i % 13}_downsample_conv" for i in range(54)]
    layers = tuple(
        Layer(name, name, (8 * (1 + i // 13), 64), 4, True) for i, name in enumerate(names)
    )
    write(tmp_path / "run", layers=layers, epochs=5, weight_decay=0.1)
    write_report([tmp_path / "run"], tmp_path / "report.html")
    with opened(browser, tmp_path / "report.html") as page:
        labels = page.locator("figure[data-name$='-heatmap'] .ytick text")
        boxes = sorted((label.bounding_box() for label in labels.all()), key=lambda box: box["y"])
        assert len(boxes) == 54
        texts = labels.all_text_contents()
        assert [text.split("_")[:2] for text in texts] == [name.split("_")[:2] for name in names]
        slack = 3  # pixels: a box includes room for accents and descenders
        for upper, lower in itertools.pairwise(boxes):
            assert upper["y"] + upper["height"] <= lower["y"] + slack
        bar = page.locator("figure[data-name$='-ranks'] .cbaxis text")
        heights = sorted((text.bounding_box() for text in bar.all()), key=lambda box: box["y"])
        assert len(heights) >= 8
        for upper, lower in itertools.pairwise(heights):
            assert upper["y"] + upper["height"] <= lower["y"] + slack
        selector(page, "Highlight layer").select_option("20")
        drawn = plot(page, "-ranks")["data"]
        assert sum((t.get("line") or {}).get("width") == 3.5 for t in drawn) == 2
        assert fits(page)


@pytest.mark.parametrize("state", ["empty", "initialised", "collapsed"])
def test_a_run_that_says_little_makes_a_useful_page(browser, tmp_path, state):
    special = {
        "empty": {"recorded": 0, "state": "running"},
        "initialised": {"recorded": 1, "state": "running"},
        "collapsed": {"collapse_at": 3, "state": "collapsed"},
    }[state]
    write(tmp_path / "run", epochs=8, **special)
    write_report([tmp_path / "run"], tmp_path / "report.html")
    said = {
        "empty": "killed, no epoch recorded",
        "initialised": "killed, epoch 0 of 8",
        "collapsed": "collapsed, epoch 8 of 8 · no rank",
    }[state]
    with opened(browser, tmp_path / "report.html") as page:
        assert page.locator(".lead").inner_text().startswith(said)
        if state == "empty":
            assert "No epoch has been recorded yet" in page.locator("main").inner_text()
            return
        page.wait_for_selector(".main-svg")
        if state == "collapsed":
            drawn = plot(page, "-ranks")["data"]
            (crosses,) = [t for t in drawn if t.get("name") == "collapsed: no rank"]
            assert crosses["x"] == [2] * 4
            assert "Grey: collapsed" in page.locator("figure[data-name$='-heatmap']").inner_text()


def test_paper_has_all_plots_and_no_controls(browser, many):
    with opened(browser, many) as page:
        page.emulate_media(media="print")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert plot(page, "curves")["layout"]["width"] <= 700
        assert not page.locator(".toolbar").is_visible()
        assert page.locator("figure[data-name=scatter] .main-svg").first.is_visible()
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        page.emulate_media(media="screen")
        assert page.locator(".toolbar").is_visible()


def test_200_runs_of_100_epochs_stay_usable(browser, tmp_path):
    first = [
        write(tmp_path / "first" / f"f{i}", sizes=(16, 16), epochs=100, decay=d, weight_decay=d)
        for i, d in enumerate((0.0, 0.02, 0.05, 0.1))
    ]
    for place in range(200):
        source, decay = first[place % 4], (0.0, 0.02, 0.05, 0.1)[place % 4]
        copy(source, tmp_path / "runs" / f"run{place}", weight_decay=decay,
             lr=0.1 * (1 + place // 4 % 5), seed=place // 20)  # fmt: skip
    write_report([tmp_path / "runs"], tmp_path / "report.html")
    for size in (LAPTOP, {"width": 1440, "height": 900}):
        with opened(browser, tmp_path / "report.html", size) as page:
            start = time.monotonic()
            selector(page, "Colour by").select_option(label="learning rate")
            assert len(colours(page)) == 5
            print(f"coloured in {time.monotonic() - start:.2f} s")
            start = time.monotonic()
            page.get_by_label("Filter").fill("seed=3")
            page.wait_for_function(
                "() => document.querySelectorAll('#runs tbody tr').length === 20"
            )
            print(f"filtered in {time.monotonic() - start:.2f} s")
            assert fits(page)
