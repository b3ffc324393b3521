"""Each rule for notebooks finds what it is there for, and lets a good chapter be."""

import json

import nbformat
import pytest

from book.tools import exercises, figures, lint, numbers
from book.tools.lint import Chapter, check, contents, stray_addresses
from book.tools.project import read
from book.tools.sync import sync
from dtl_lib import ledger
from dtl_lib.ledger import Record
from tests.notebooks.conftest import code, markdown

DESCRIBED = {
    "mystnb": {"image": {"alt": "A grid of grey squares, darker to the right"}, "figure": {"caption": "Squares."}}
}
HEAD = "> **The question.** What is a token?\n>\n> **Time.** As long as it takes. **Before this.** Nothing."
EXERCISES = [
    cell
    for number, kind in enumerate(("Exercise 1", "Exercise 2", "Change, run, explain: it"), 1)
    for cell in (
        markdown(f"### {kind} · Name it\n\nDifficulty 2 of 3 · 5 minutes"),
        code(f"def answer{number}(x): ...\n\n\nch01.check_answer(answer{number})"),
        markdown("<details><summary>Solution</summary>\n\n```python\ndef answer(x):\n    return x\n```\n\n</details>"),
    )
]


@pytest.fixture
def good(project, add, notebook):
    """A chapter that keeps every rule, as (path, notebook)."""
    cells = [
        markdown(f"# 1. Pictures to tokens\n\n{HEAD}"),
        code("from dtl_lib.exercises import ch01"),
        code("from dtl_lib import figures\n\nfigures.draw_step()", **DESCRIBED),
        code("print(2 + 2)", lint.CHECKED),
    ]
    chapter = notebook(*cells, *EXERCISES)
    chapter.cells[3].outputs = [nbformat.v4.new_output("stream", text="4\n")]
    path = add("01_pictures.ipynb", chapter)
    sync(project, path)
    return path, read(path)


def test_a_good_chapter_has_no_problems(project, good):
    assert check(Chapter(project, *good)) == []


@pytest.mark.parametrize(
    "text", ["**Rollout** is …", "[Rollout](../book/glossary.md)", "[chapter 12](12_rollout.ipynb): rollout"]
)
def test_a_term_is_defined_or_linked_where_it_is_first_used(project, good, text):
    path, notebook = good
    says(1, f"\n\n{text}\n\nOf rollout.")(notebook)
    assert check(Chapter(project, path, notebook)) == []


def test_sync_changes_nothing_twice(project, good):
    assert not sync(project, good[0])


def at(number, **fields):
    """A mistake in cell `number` (the good notebook's, from 1)."""

    def change(notebook):
        for name, value in fields.items():
            notebook.cells[number - 1][name] = value

    return change


def says(number, text):
    """A mistake: text put at the end of a cell."""

    def change(notebook):
        notebook.cells[number - 1].source += text

    return change


MISTAKES = {
    "no number": (lambda nb: at(1, source=nb.cells[0].source.replace("1. ", ""))(nb), "'# 1. …'"),
    "other number": (lambda nb: at(1, source=nb.cells[0].source.replace("# 1.", "# 2."))(nb), "'# 1. …'"),
    "no question": (lambda nb: at(1, source=nb.cells[0].source.replace("The question", "Hm"))(nb), "**The question.**"),
    "no time": (lambda nb: at(1, source=nb.cells[0].source.replace("**Time.**", ""))(nb), "**Time.**"),
    "needs outside the quote": (
        lambda nb: at(1, source=nb.cells[0].source.replace("> **Time", "**Time"))(nb),
        "**Before this.**",
    ),
    "link without number": (says(6, " [the next](02_attention.ipynb)"), "does not say 'chapter 2'"),
    "link with another number": (says(6, " [chapter 1](02_attention.ipynb)"), "does not say 'chapter 2'"),
    "second h1": (says(6, "\n\n# Another title"), "a second h1, '# Another title'"),
    "html h1": (says(6, "\n\n<h1>x</h1>"), "a second h1"),
    "no h1": (at(1, source="Pictures"), "opens with the chapter's title"),
    "first cell": (says(2, "\nprint()"), "the first code cell is not the book's"),
    "other address": (
        lambda notebook: at(2, source=notebook.cells[1].source.replace("github.com/", "github.com/fork-"))(notebook),
        "the first code cell is not the book's",
    ),
    "badge": (lambda nb: at(1, source=nb.cells[0].source.replace("/main/", "/dev/"))(nb), "needs one link to Colab"),
    "directive": (says(6, "\n\n```{note}\nx\n```"), "MyST ('```{note}') shows raw in Colab"),
    "colon directive": (says(6, "\n\n:::{tip}\nx\n:::"), "MyST"),
    "role": (says(6, " See {ref}`fig-x`."), "MyST ('{ref}`fig-x`')"),
    "target": (says(6, "\n\n(fig-x)=\n"), "MyST"),
    "stored output": (
        lambda nb: nb.cells[3].outputs.append(nbformat.v4.new_output("stream", text="x")),
        "cell 4: stored output",
    ),
    "no stored output": (lambda nb: nb.cells[4].update(outputs=[]), "but has no stored output"),
    "execution count": (at(4, execution_count=3), "has an execution count"),
    "long cell": (says(4, "\nx = 1" * 12), "lines: a cell has at most 12"),
    "kernel": (lambda nb: nb.metadata.kernelspec.update(name="ir"), "the kernel is 'ir', not 'python3'"),
    "machine metadata": (lambda nb: nb.metadata.update(widgets={}), "metadata that differs by machine (widgets)"),
    "id twice": (lambda nb: nb.cells[4].update(id=nb.cells[3].id), "is missing or taken"),
    "syntax": (says(4, "\nx = = 1"), "cell 4: is not Python"),
    "two locks": (
        lambda nb: nb.cells[3].metadata.update(tags=["lock:dtl_lib.layers.Mlp", "lock:dtl_lib.layers.Block"]),
        "a locked cell has one",
    ),
    "lock elsewhere": (lambda nb: nb.cells[3].metadata.update(tags=["lock:torch.nn.Linear"]), "a locked cell has one"),
    "image": (says(6, "\n\n![](x.png)"), "an image without alt text"),
    "html image": (says(6, '\n\n<img src="x.png">'), "an image without alt text"),
    "figure": (lambda nb: nb.cells[3].metadata.clear(), "cell 4: draws a figure: needs metadata mystnb.image.alt"),
    "poor alt": (lambda nb: nb.cells[3].metadata.mystnb.image.update(alt="figure"), "needs metadata mystnb.image.alt"),
    "caption": (lambda nb: nb.cells[3].metadata.mystnb.pop("figure"), "needs metadata mystnb.figure.caption"),
    "effort": (at(6, source="### Exercise 1 · Name it"), "'Difficulty 1 of 3 · 10 minutes'"),
    "solution": (at(8, source="No solution."), "<details><summary>Solution</summary>"),
    "stub": (at(7, source="ch01.check_answer(unknown)"), "leaves 'unknown' as a stub"),
    "other chapter": (at(7, source="def a(x): ...\nch02.check_answer(a)"), "this chapter's checkers are in ch01"),
    "minutes": (says(6, "\n\n*Difficulty 2 of 3 · 5 minutes.*"), "the exercises' minutes come to 5"),
    "term": (says(1, "\n\nOf rollout.\n\n**Rollout** is defined too late."), "'rollout' is first used here"),
    "share": (says(4, "\nfigures.show_maps(x, label=name)"), "notes= says what share each map leaves out"),
    "no drawing": (at(4, source="plt.plot([1]);"), "nothing is drawn"),
    "no change": (
        lambda nb: at(12, source=nb.cells[11].source.replace("Change, run, explain", "Exercise"))(nb),
        "0 exercises '### Change, run, explain: …'",
    ),
    "too few": (at(7, source="answer = 1"), "2 exercises: a chapter has 3 to 5"),
    "reference": (says(6, " [x](../book/references.md#nobody2020)"), "there is no 'nobody2020'"),
    "record": (says(6, " [x](../book/ledger.md#nothing)"), "there is no 'nothing'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_found(project, good, name):
    path, notebook = good
    change, message = MISTAKES[name]
    change(notebook)
    messages = check(Chapter(project, path, notebook))
    assert any(message in line for line in messages), messages
    assert all(line.startswith("notebooks/01_pictures.ipynb") for line in messages)


def test_a_locked_cell_may_be_long(project, good):
    path, notebook = good
    notebook.cells[3].metadata.tags = ["lock:dtl_lib.layers.Mlp"]
    notebook.cells[3].source += "\nx = 1" * 12
    assert not any("lines" in line for line in check(Chapter(project, path, notebook)))


def test_a_figure_only_the_output_shows(project, good):
    path, notebook = good
    executed = nbformat.from_dict(json.loads(json.dumps(notebook)))
    executed.cells[2].outputs = [nbformat.v4.new_output("display_data", {"image/png": "x"})]
    assert "cell 3: draws a figure" in "\n".join(check(Chapter(project, path, notebook, executed)))


@pytest.mark.parametrize("more", ["label='length'", "notes=notes", "label='attention', notes=notes"])
def test_maps_that_leave_nothing_out_or_say_what_are_fine(project, good, more):
    path, notebook = good
    says(4, f"\nfigures.show_maps(x, {more})")(notebook)
    assert not any("share" in line for line in check(Chapter(project, path, notebook)))


BACKED = {
    "There are 12 blocks of 64 patches, and 16×16 pixels.": True,
    "See §3.1, Table 2.4 and Python 3.11.": True,
    "The factor is `0.1`, that is $0.1$.": True,
    "```\n97.5 %\n```": True,
    "It takes 97.5 %.": True,
    "It takes about 98 %.": True,
    "It is 0.975.": True,
    "It handles 1,234 images/s.": True,
    "It takes 96.1 %.": False,
    "It is 2× faster.": False,
    "It runs in 30 s.": False,
    "The loss falls to 0.31.": False,
    "It gains 3 points.": False,
    "The GPU made 3 runs of 10.": False,
    "The GPU made 1,234 runs of 10, which took 3 seeds.": True,
    "- one\n- two: 96.1 %": False,
    "The paper reports 79.9 % ([DeiT](../book/references.md#touvron2021training)).": True,
    "The paper reports 79.9 %. See [DeiT](../book/references.md#touvron2021training).": False,
    "We reach 61.2 ± 24.8 % ([runs](../book/ledger.md#cifar)).": True,
    "The first run reaches 51 % in 12.5 ms ([run](../book/ledger.md#FIRST)).": True,
    "We reach 61.3 % ([runs](../book/ledger.md#cifar)).": False,
    "The first run reaches 61 % ([run](../book/ledger.md#FIRST)).": True,
    "The first run reaches 71 % ([run](../book/ledger.md#FIRST)).": False,
    "The second is at 71 % ([runs](../book/ledger.md#cifar)).": True,
    "They are 97.5 % apart ([runs](../book/ledger.md#cifar)).": True,
    "They are 20 % apart ([runs](../book/ledger.md#cifar)).": False,
    "They are 20 % apart ([runs](../book/ledger.md#cifar)). <!-- number: 0.712 − 0.512 -->": True,
    "It is 20 % ([runs](../book/ledger.md#cifar), [DeiT](../book/references.md#touvron2021training)).": True,
    "It is 97.5 % ([runs](../book/ledger.md#nothing)).": False,
    "Drop 10 % of them. <!-- number: the setting of the cell below -->": True,
    "Drop 10 % of them. <!-- a comment -->": False,
    "| a | b |\n|---|---|\n| [x](../book/references.md#touvron2021training) | 79.9 |": True,
    "| a | b |\n|---|---|\n| x | 79.9 |": False,
}


def runs(project):
    """Two runs of one kind in the project's ledger; the first one's id."""
    first = {"accuracy": 0.512, "seconds": 0.0125, "curve": [0.1, 0.512]}
    for seed, values in enumerate((first, {**first, "accuracy": 0.712}, {**first, "accuracy": 0.612})):
        date = "2026-01-31T12:00:00+00:00"
        record = Record("cifar", "plain", "dtl train", date, "cpu", "0.1.0", "2.6", seed, 500, values)
        ledger.append(record, project.root / "dtl_lib" / "ledger")
    return ledger.read("cifar", project.root / "dtl_lib" / "ledger")[0].id


@pytest.mark.parametrize("text", BACKED)
def test_numbers_in_prose_are_backed(project, good, text):
    path, notebook = good
    first = runs(project)
    notebook.cells[4].outputs = [nbformat.v4.new_output("stream", text="accuracy 0.9751, 1234 images/s\n")]
    notebook.cells[5].source += "\n\n" + text.replace("FIRST", first)
    messages = check(Chapter(project, path, notebook, notebook))
    assert (messages == []) is BACKED[text], messages
    if "ledger.md" not in text:
        assert BACKED[text] or "is not in the output of a cell above" in messages[0]


def test_a_recorded_number_is_looked_for_in_its_record_alone(project, good):
    path, notebook = good
    first = runs(project)
    notebook.cells[5].source += f"\n\nOne reaches 71.2 % ([run](../book/ledger.md#{first}))."
    (message,) = check(Chapter(project, path, notebook, notebook))
    assert message.startswith(
        f"notebooks/01_pictures.ipynb, cell 6: '71.2 %' is not in ledger.md#{first}, which has n, "
    )
    assert "accuracy, seconds, curve: state what the record holds, print what follows from it in a cell" in message
    assert check(Chapter(project, path, notebook)) == []  # not run: a cell may yet print it


def test_pages_state_what_the_ledger_holds(project):
    first, page = runs(project), project.root / "book" / "page.md"
    for text, message in {
        "It is 61.2 ± 24.8 % ([all](ledger.md#cifar)).": "",
        "It is 61.4 % ([all](ledger.md#cifar)).": "book/page.md: '61.4 %' is not in ledger.md#cifar, which has n",
        f"It is 71.2 % ([all](ledger.md#{first})).": f"book/page.md: '71.2 %' is not in ledger.md#{first}",
        "It is 61.2 % ([all](ledger.md#cifra)).": "links to ledger.md#cifra, but there is no 'cifra': one of cifar",
        "It is 20.0 % more ([all](ledger.md#cifar)). <!-- number: 71.2 − 51.2 -->": "",
        "Elsewhere it is 61.4 %.": "",
    }.items():
        page.write_text(f"# Page\n\n{text}\n")
        messages = numbers.pages(project.root)
        assert (messages == []) if not message else (len(messages) == 1 and message in messages[0]), messages


def test_a_number_below_its_cell_is_not_backed(project, good):
    path, notebook = good
    notebook.cells[0].source += "\n\nIt takes 97.5 %."
    notebook.cells[4].outputs = [nbformat.v4.new_output("stream", text="97.5\n")]
    assert len(check(Chapter(project, path, notebook, notebook))) == 1


def test_the_contents_list_every_chapter(project, good):
    assert contents(project) == ["_toc.yml: notebooks/01_pictures is not listed: add it to its part"]
    (project.root / "_toc.yml").write_text("- file: notebooks/01_pictures\n- file: notebooks/02_gone\n")
    assert contents(project) == ["_toc.yml: notebooks/02_gone is listed but does not exist"]


def test_a_figure_has_a_name_of_its_own(project, add, notebook):
    for number, name in enumerate(("fig-curves", "fig-curves", "fig-maps"), 1):
        add(f"0{number}_a.ipynb", notebook(code("1", mystnb={"figure": {"name": name}}), code("2")))
    assert figures.named_once(project) == [
        "notebooks/02_a.ipynb: 01_a.ipynb has a figure 'fig-curves' too: choose another name"
    ]


def test_the_address_stands_in_one_place(project):
    assert stray_addresses(project) == []
    (project.root / "book" / "page.md").write_text(f"see {project.address}")
    assert len(stray_addresses(project)) == 1


def rule(project, good, check):
    """What one rule says."""
    path, notebook = good
    return [message for _, message in check(Chapter(project, path, notebook))]


BUILD = (
    markdown("### Build it: the MLP\n\nDifficulty 2 of 3 · 10 minutes"),
    code("class MyMlp: ...\n\n\nch01.check_mlp(MyMlp)"),
    markdown("<details><summary>Solution</summary>\n\n```python\nclass MyMlp:\n    pass\n```\n\n</details>"),
)
LOCKED = code("class Mlp: ...", "lock:dtl_lib.layers.Mlp", "hide-input")


def test_what_is_locked_is_built_before_and_folded(project, good):
    cells = good[1].cells
    cells[4:4] = [*BUILD, LOCKED]
    assert rule(project, good, exercises.built_first) == []
    assert rule(project, good, exercises.complete) == [], "what is built is not one of the three to five exercises"
    cells[4:8] = [LOCKED, *BUILD]
    (message,) = rule(project, good, exercises.built_first)
    assert "before the reader could build it" in message
    cells[4:8] = [*BUILD, code("class Mlp: ...", "lock:dtl_lib.layers.Mlp")]
    (message,) = rule(project, good, exercises.built_first)
    assert "'hide-input'" in message
    cells[4:8] = [*BUILD, LOCKED, code("class Block: ...", "lock:dtl_lib.layers.Block", "hide-input")]
    (message,) = rule(project, good, exercises.built_first)
    assert "dtl_lib.layers.Block" in message, "one thing built does not stand for two definitions"


def test_a_folded_definition_is_folded_everywhere(project, good):
    path, notebook = good
    notebook.cells.insert(4, LOCKED)
    nbformat.write(notebook, path)
    sync(project, path)
    metadata = read(path).cells[4].metadata
    assert metadata.jupyter == {"source_hidden": True}
    assert metadata.mystnb.code_prompt_show == "The library's version"
