"""What a study keeps of the sweep as a whole, besides its trials."""

import optuna


class Facts:
    """Facts in the journal of a study; each method writes through before it returns."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study

    def micro_batch_tokens(self, asked: int) -> int:
        """Return the micro_batch_tokens that fit into memory; another option is tried anew."""
        found = self._study.user_attrs.get("micro_batch", {})
        return found["fits"] if found.get("asked") == asked else asked

    def lower_micro_batch(self, asked: int, fits: int) -> None:
        """Keep what fits where `asked` is the option."""
        self._study.set_user_attr("micro_batch", {"asked": asked, "fits": fits})

    @property
    def notes(self) -> list[str]:
        """What happened to the sweep, in sentences for people."""
        return self._study.user_attrs.get("notes", [])

    def add_note(self, note: str) -> None:
        """Keep a sentence for the results and the page."""
        self._study.set_user_attr("notes", [*self.notes, note])
