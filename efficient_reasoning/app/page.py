"""The page in three tabs: the curve, the samples behind its points, and one's own question to up to two models.

Whatever comes back from the browser is a number in one of our own lists, or a text for a model.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import gradio as gr

from efficient_reasoning.app.curve import draw_curve, legend, numbered_points
from efficient_reasoning.app.runs import Run
from efficient_reasoning.app.samples import ANY, AS_SAMPLED, CORRECT, CUT_OFF, LONGEST, SHORTEST, WRONG
from efficient_reasoning.app.stream import stream
from efficient_reasoning.app.text import show_response, show_sample
from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference import Reasoner, Solution
from efficient_reasoning.traces import budget_label, shown_tokens

STRATEGIES = (
    "budget-forcing",
    "no-thinking",
    "chain-of-draft",
    "close-scaling",
    "deer",
    "dynasor",
    "l1-exact",
    "l1-max",
    "tale-estimate",
    "tale-search",
)
SAMPLES_PER_PAGE = 12
MOST_TOKENS = 8192
EXAMPLE = "Chickens and rabbits: 24 heads and 56 legs. How many chickens?"
NO_MODEL = (
    "This page was started without a model. To ask one, or two side by side, start it with\n\n"
    "```\nefficient-reasoning app RUN --model overthinker\n```\n\nA model is a folder, a Hub id, or `overthinker`; "
    "two are written one after the other."
)
_TITLE_LETTERS = 60
_HERE = Path(__file__).parent


def build_page(runs: Sequence[Run], reasoners: Sequence[Reasoner] = ()) -> gr.Blocks:
    """The page, not launched yet.

    Args:
        runs: at least one, from `open_runs`.
        reasoners: up to two, to ask.
    """
    with gr.Blocks(title="efficient-reasoning", analytics_enabled=False, fill_width=True) as page:
        gr.HTML("<h1>Accuracy against thinking</h1>", elem_classes="title")
        with gr.Tabs(selected="curve") as tabs:
            with gr.Tab("Curve", id="curve"):
                wide, narrow = draw_curve(runs, 960, 460), draw_curve(runs, 360, 330)
                curve = gr.HTML(
                    f'{legend(runs)}<div class="wide">{wide}</div><div class="narrow">{narrow}</div>'
                    '<div class="tip" role="status" hidden></div>'
                    '<p class="quiet">Hover a point or Tab to it to read it; click or press Enter for samples.</p>',
                    js_on_load=(_HERE / "curve.js").read_text(encoding="utf-8"),
                    elem_classes="curve",
                )
            with gr.Tab("Samples", id="samples"):
                _add_browser(page, tabs, curve, runs)
            with gr.Tab("Ask", id="ask"):
                if reasoners:
                    _add_questions(reasoners)
                else:
                    gr.Markdown(NO_MODEL)
    return page


def style() -> dict:
    """What `launch` takes beside the page: fonts of the system, one accent."""
    theme = gr.themes.Base(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.gray,
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(color_accent="*primary_600")
    return {"theme": theme, "css": (_HERE / "page.css").read_text(encoding="utf-8")}


# ---- samples ----


def _add_browser(page: gr.Blocks, tabs: gr.Tabs, curve: gr.HTML, runs: Sequence[Run]) -> None:
    with gr.Row(elem_classes="choices"):
        run = gr.Dropdown([(each.label, place) for place, each in enumerate(runs)], value=0, label="Run")
        point = gr.Dropdown(_point_choices(runs[0]), value=0, label="Point", scale=2)
        verdict = gr.Dropdown([ANY, CORRECT, WRONG, CUT_OFF], value=ANY, label="Verdict")
        order = gr.Dropdown([AS_SAMPLED, SHORTEST, LONGEST], value=AS_SAMPLED, label="Order")
    number = gr.State(0)
    with gr.Row(elem_classes="browser"):
        with gr.Column(scale=2, min_width=300):
            with gr.Row(elem_classes="pager"):
                back = gr.Button("Previous", size="sm", interactive=False)
                where = gr.HTML("", elem_id="where")
                forth = gr.Button("Next", size="sm", interactive=False)
            lines = gr.Radio([], label="Samples", show_label=False, elem_classes="lines")
        with gr.Column(scale=3, min_width=300):
            sample = gr.HTML("", elem_id="sample")

    @_telling
    def turn_to(run_place: int, point_place: int, verdict: str, order: str, page_number: int) -> tuple:
        """One page of lines, its first sample, and where that page is."""
        chosen = _at(runs, run_place)
        at = _at(chosen.points, point_place)
        chosen.samples.refresh()
        rows = chosen.samples.select(at["strategy"], at["budget_tokens"], verdict, order).tolist()
        pages = max(1, -(-len(rows) // SAMPLES_PER_PAGE))
        page_number = min(max(0, page_number), pages - 1)
        shown = rows[page_number * SAMPLES_PER_PAGE :][:SAMPLES_PER_PAGE]
        choices = [(_title(chosen.samples.read(row)), row) for row in shown]
        first = show_sample(chosen.samples.read(shown[0])) if shown else '<p class="quiet">No such sample.</p>'
        return (
            gr.Radio(choices, value=shown[0] if shown else None),
            first,
            page_number,
            f"{page_number + 1:,} / {pages:,} · {len(rows):,} samples",
            gr.Button(interactive=page_number > 0),
            gr.Button(interactive=page_number < pages - 1),
        )

    @_telling
    def show(run_place: int, row: int) -> str:
        return show_sample(_at(runs, run_place).samples.read(row))

    def refill(run_place: int) -> gr.Dropdown:
        return gr.Dropdown(_point_choices(_at(runs, run_place)), value=0)

    def open_point(event: gr.EventData) -> tuple:
        """The samples of a point of the curve."""
        chosen, at = _at(numbered_points(runs), event._data.get("point"))
        point_update = gr.Dropdown(_point_choices(chosen), value=chosen.points.index(at))
        return gr.Tabs(selected="samples"), gr.Dropdown(value=_place(runs, chosen)), point_update

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    listing = {"inputs": [run, point, verdict, order], "outputs": [lines, sample, number, where, back, forth], **quiet}
    from_start = {"fn": lambda *chosen: turn_to(*chosen, 0), **listing}
    page.load(**from_start)
    run.input(refill, run, point, **quiet).then(**from_start)
    for choice in (point, verdict, order):
        choice.input(**from_start)
    for button, step in ((back, -1), (forth, 1)):
        button.click(
            lambda *chosen, step=step: turn_to(*chosen[:-1], chosen[-1] + step),
            **listing | {"inputs": [run, point, verdict, order, number]},
        )
    lines.input(show, [run, lines], sample, **quiet)
    curve.select(open_point, None, [tabs, run, point], **quiet).then(**from_start)


def _telling(function: Callable) -> Callable:
    """What the files do not allow is told on the page, in its sentence."""

    @functools.wraps(function)
    def tell(*words):
        try:
            return function(*words)
        except BadInput as error:
            raise gr.Error(str(error), print_exception=False) from None

    return tell


def _at(known: Sequence, place: int):
    """An entry of a list of ours; a browser may ask for anything."""
    if not isinstance(place, int) or not 0 <= place < len(known):
        raise gr.Error("There is no such run or point on this page; reload it.", print_exception=False)
    return known[place]


def _place(known: Sequence, entry: object) -> int:
    return next(place for place, other in enumerate(known) if other is entry)


def _point_choices(run: Run) -> list[tuple[str, int]]:
    return [
        (f"{point['strategy']}, {budget_label(point['budget_tokens'])}", place)
        for place, point in enumerate(run.points)
    ]


def _title(sample: dict) -> str:
    mark = "✓" if sample["correct"] else "✗"
    question = " ".join(str(sample["question"]).split())
    question = question if len(question) <= _TITLE_LETTERS else question[: _TITLE_LETTERS - 1] + "…"
    return f"{mark} {shown_tokens(sample):,} tokens{', cut off' if sample['truncated'] else ''}: {question}"


# ---- asking ----


def _add_questions(reasoners: Sequence[Reasoner]) -> None:
    known = [reasoner.context_tokens or MOST_TOKENS for reasoner in reasoners]
    limit_tokens = min(MOST_TOKENS, min(known) // 2)
    question = gr.Textbox(EXAMPLE, label="Question", lines=2, elem_id="question")
    with gr.Row(elem_classes="choices"):
        strategy = gr.Dropdown(list(STRATEGIES), value=STRATEGIES[0], label="Strategy")
        budget = gr.Slider(16, limit_tokens, value=min(128, limit_tokens), step=1, label="Budget in tokens", scale=2)
        without = gr.Checkbox(False, label="No budget", info=f"at most {limit_tokens:,} tokens")
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**31 - 1)
    with gr.Row(elem_classes="pager"):
        go = gr.Button("Ask", variant="primary", size="md")
        stop = gr.Button("Stop", size="md")
    with gr.Row(elem_classes="sides"):
        sides = [gr.HTML(show_response(reasoner.name, None)) for reasoner in reasoners]
    device = threading.Lock()  # a question that was stopped may be within its last piece when the next one comes

    def ask(question: str, strategy: str, budget: int, without: bool, seed: int) -> Iterator[list[str]]:
        options = {
            "strategy": strategy,
            "budget_tokens": None if without else int(budget),
            "max_new_tokens": limit_tokens,
            "seed": int(seed or 0),
        }
        streams = {place: stream(reasoner, question, **options) for place, reasoner in enumerate(reasoners)}
        shown = [show_response(reasoner.name, None) for reasoner in reasoners]
        while streams:
            for place in list(streams):
                try:
                    with device:
                        state = next(streams[place])
                except BadInput as error:
                    state = str(error)
                if isinstance(state, str | Solution):
                    del streams[place]
                shown[place] = show_response(reasoners[place].name, state)
            yield shown if len(shown) > 1 else shown[0]

    asked = gr.on(
        [go.click, question.submit],
        ask,
        [question, strategy, budget, without, seed],
        sides,
        show_progress="hidden",
        api_visibility="private",
    )
    stop.click(None, cancels=[asked])
