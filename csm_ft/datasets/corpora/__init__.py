"""Corpora as they are downloaded, each told by its files; one importer each."""

from collections.abc import Iterator
from typing import Literal

from csm_ft.datasets.corpora.ami import is_ami, read_ami
from csm_ft.datasets.corpora.base import Corpus
from csm_ft.datasets.corpora.common_voice import is_common_voice, read_common_voice
from csm_ft.datasets.corpora.cremad import is_cremad, read_cremad
from csm_ft.datasets.corpora.dailytalk import is_dailytalk, read_dailytalk
from csm_ft.datasets.corpora.esd import is_esd, read_esd
from csm_ft.datasets.corpora.gigaspeech import is_gigaspeech, read_gigaspeech
from csm_ft.datasets.corpora.kaldi import is_kaldi, read_kaldi
from csm_ft.datasets.corpora.libri import (
    is_librispeech,
    is_libritts,
    read_librispeech,
    read_libritts,
)
from csm_ft.datasets.corpora.ljspeech import is_ljspeech, read_ljspeech
from csm_ft.datasets.corpora.mls import is_mls, read_mls
from csm_ft.datasets.corpora.msp_podcast import is_msp_podcast, read_msp_podcast
from csm_ft.datasets.corpora.peoples_speech import is_peoples_speech, read_peoples_speech
from csm_ft.datasets.corpora.prepared import is_prepared, read_prepared
from csm_ft.datasets.corpora.ravdess import is_ravdess, read_ravdess
from csm_ft.datasets.corpora.tedlium import is_tedlium, read_tedlium
from csm_ft.datasets.corpora.vctk import is_vctk, read_vctk
from csm_ft.datasets.corpora.wav_lists import is_wav_list_tree, read_wav_list_tree
from csm_ft.datasets.tree import Tree
from csm_ft.errors import MetadataError

CORPORA = {
    "commonvoice": Corpus("Common Voice", is_common_voice, read_common_voice, told_by="top"),
    "ljspeech": Corpus("LJSpeech", is_ljspeech, read_ljspeech, told_by="top"),
    "dailytalk": Corpus("DailyTalk", is_dailytalk, read_dailytalk, told_by="top"),
    "mls": Corpus("Multilingual LibriSpeech", is_mls, read_mls, told_by="top"),
    "gigaspeech": Corpus("GigaSpeech", is_gigaspeech, read_gigaspeech, told_by="top"),
    "ami": Corpus("AMI", is_ami, read_ami, told_by="top"),
    "tedlium": Corpus("TED-LIUM", is_tedlium, read_tedlium, told_by="top"),
    "peoplespeech": Corpus(
        "The People's Speech", is_peoples_speech, read_peoples_speech, told_by="top"
    ),
    "prepared": Corpus("prepared by scripts", is_prepared, read_prepared, told_by="names"),
    "cremad": Corpus("CREMA-D", is_cremad, read_cremad, told_by="names"),
    "esd": Corpus("ESD", is_esd, read_esd, told_by="names"),
    "ravdess": Corpus("RAVDESS", is_ravdess, read_ravdess, told_by="names"),
    "msp-podcast": Corpus("MSP-Podcast", is_msp_podcast, read_msp_podcast, told_by="names"),
    "kaldi": Corpus("a Kaldi data directory", is_kaldi, read_kaldi, told_by="top"),
    "librispeech": Corpus("LibriSpeech", is_librispeech, read_librispeech),
    "libritts": Corpus("LibriTTS", is_libritts, read_libritts),
    "vctk": Corpus("VCTK", is_vctk, read_vctk),
    "mailabs": Corpus("M-AILABS, or other wav lists", is_wav_list_tree, read_wav_list_tree),
}


def find_corpus(tree: Tree, told_by: Literal["top", "names", "files"]) -> Corpus | None:
    """Return the corpus that a folder is, by what it is told by, or None.

    MetadataError where one of those told by the folder itself, or acted speech, lies beside another
    corpus.
    """
    found = next((one for one in _all(told_by) if one.is_in(tree)), None)
    if found and told_by != "files" and found is not CORPORA["prepared"]:
        others = ("names", "files") if told_by == "names" else ("top", "names")
        both = [
            name
            for name, one in CORPORA.items()
            if one is found or (one.told_by in others and name != "prepared" and one.is_in(tree))
        ]
        if len(both) > 1:
            titles = " and ".join(CORPORA[name].title for name in both)
            raise MetadataError(
                f"{tree.folder}: holds {titles}; name the folder of one, or read each by its name:"
                f" python -m csm_ft.datasets {both[0]} {tree.folder} --output {both[0]}.jsonl"
            )
    return found


def _all(told_by: str) -> Iterator[Corpus]:
    return (corpus for corpus in CORPORA.values() if corpus.told_by == told_by)
