from vae_study.report.sections.trade_off import frontier_png
from vae_study.selection.ranking import Selection

from .studies import study


def test_the_chosen_trial_is_marked_in_the_picture_of_the_frontier():
    record = study(trials=12, epochs=4)
    about = record.name, record.config, record.trials, record.reference
    plain = frontier_png(*about)
    marked = [frontier_png(*about, Selection(number, "elbo", 0.9)) for number in (0, 1)]
    assert len({plain, *marked}) == 3
    assert all(picture.startswith(b"\x89PNG") for picture in (plain, *marked))
