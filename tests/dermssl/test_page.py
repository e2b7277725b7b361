from matplotlib import rc_context
from matplotlib.figure import Figure

from dermssl.errors import plain_text, shortened
from dermssl.page import Section, breakable, render, shown_label, templates
from dermssl.plotting import INK, PLOT_STYLE, as_svg


def test_all_text_is_escaped_and_absent_parts_leave_no_trace():
    odd = "<script>alert(1)</script>"
    section = Section(odd, [odd], [odd], [[odd]], terms={odd: odd})
    html = render(title=odd, lead=[odd], notes=[odd], sections=[section], foot=[odd])
    assert "<script" not in html and html.count("&lt;script&gt;") == 11
    assert "Read with this in mind" not in render(title="t")
    assert "mend it with <code>dermeval leaks</code></p>" in render(title="t", notes=["mend it with `dermeval leaks`"])


def test_a_column_of_numbers_is_set_to_the_right_and_a_column_of_words_to_the_left():
    section = Section("s", columns=["name", "score"], rows=[["a", "0.5 [0.4, 0.6]"], ["b", "insufficient"]])
    assert section.numeric == [False, True]
    assert '<td class="number">insufficient</td>' in render(title="t", sections=[section])


def test_what_a_terminal_would_obey_is_not_printed():
    assert plain_text("a\x1b[31m\n\tb\x9b") == "a\N{REPLACEMENT CHARACTER}[31m\n\tb\N{REPLACEMENT CHARACTER}"
    assert shortened("a\x1b\nb") == "a\N{REPLACEMENT CHARACTER} b"


def test_an_id_breaks_between_its_parts_and_stays_escaped():
    assert breakable("set/P_12.3-4") == "set/<wbr>P_<wbr>12.<wbr>3-<wbr>4"
    assert breakable("<i>") == "&lt;i&gt;" and breakable("") == ""


def test_a_label_that_says_nothing_alone_has_the_name_of_its_target():
    assert shown_label("yes", "skin_cancer") == "skin cancer: yes" and shown_label("No", "cancer") == "cancer: No"
    assert shown_label(1, "grade") == "grade: 1" and shown_label(-0.5, "grade") == "grade: -0.5"
    assert shown_label("no impetigo", "impetigo") == "no impetigo" and shown_label("naevus", "cancer") == "naevus"


def test_a_page_of_its_own_layout_shares_head_and_style():
    child = templates().from_string("{% extends 'dermssl/page.html' %}{% block content %}own{% endblock %}")
    html = child.render(title="t")
    assert "own" in html and "prefers-color-scheme: dark" in html and "width=device-width" in html


def test_a_plot_takes_the_ink_of_the_page_and_reads_no_mathematics():
    with rc_context(PLOT_STYLE):
        figure = Figure()
        figure.add_subplot().set_title("costs $5 to $_{")
    svg = as_svg(figure)
    assert "costs $5 to $_{" in svg and "currentColor" in svg and INK not in svg
