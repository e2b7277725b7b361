"""Terms of pooled data: nothing that one of the sets asks is lost."""

from dermssl import licences


def test_two_sets_of_one_name_keep_both_terms():
    strict = licences.notice("synthetic_passion", "PASSION", "Drawn from real label rows.", synthetic=True)
    free = licences.notice("synthetic_passion", "CC0-1.0", "Drawn freely.", synthetic=True)
    for notices in ([strict, free], [free, strict]):
        merged = licences.merge(notices)
        assert merged == notices
        assert licences.restricted(merged) == ["synthetic_passion"]


def test_one_set_that_came_twice_is_named_once():
    notice = licences.notice("ham10000", "CC-BY-NC-4.0", "Tschandl et al.", synthetic=False)
    assert licences.merge([notice, dict(notice)]) == [notice]
