"""Corpora as they are downloaded, each told by its files; one importer each."""

from csm_ft.datasets.corpora.base import Corpus
from csm_ft.datasets.corpora.common_voice import is_common_voice, read_common_voice
from csm_ft.datasets.corpora.kaldi import is_kaldi, read_kaldi
from csm_ft.datasets.corpora.libri import (
    is_librispeech,
    is_libritts,
    read_librispeech,
    read_libritts,
)
from csm_ft.datasets.corpora.vctk import is_vctk, read_vctk
from csm_ft.datasets.corpora.wav_lists import is_wav_list_tree, read_wav_list_tree
from csm_ft.datasets.tree import Tree

CORPORA = {
    "commonvoice": Corpus("Common Voice", is_common_voice, read_common_voice, by_top=True),
    "kaldi": Corpus("a Kaldi data directory", is_kaldi, read_kaldi, by_top=True),
    "librispeech": Corpus("LibriSpeech", is_librispeech, read_librispeech),
    "libritts": Corpus("LibriTTS", is_libritts, read_libritts),
    "vctk": Corpus("VCTK", is_vctk, read_vctk),
    "mailabs": Corpus("M-AILABS, or other wav lists", is_wav_list_tree, read_wav_list_tree),
}


def find_corpus(tree: Tree, *, by_top: bool) -> Corpus | None:
    """Return the corpus that a folder is, or None; `by_top` looks at the folder itself only."""
    candidates = (corpus for corpus in CORPORA.values() if corpus.by_top == by_top)
    return next((corpus for corpus in candidates if corpus.is_in(tree)), None)
