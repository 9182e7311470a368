"""Miniatures of acted speech as it lies on disks, with every oddity that is known of the sets."""

from pathlib import Path

from tests.helpers.metadata import POINTER, put, sound


def write_ravdess(parent: Path) -> Path:
    folder = parent / "RAVDESS"
    one = folder / "Actor_01/03-01-06-02-02-01-01.wav"
    sound(one)
    sound(folder / "Actor_02/03-01-01-01-01-01-02.wav", hz=210)
    copy = folder / "audio_speech_actors_01-24/Actor_01" / one.name
    put(copy, one.read_bytes())  # nested re-upload
    put(folder / "Actor_01/._03-01-06-02-02-01-01.wav", b"resource fork")
    put(folder / ".DS_Store", b"x")
    sound(folder / "Actor_01/03-02-03-01-01-01-01.wav")  # a song
    put(folder / "Video/01-01-06-02-02-01-01.mp4", b"video")
    sound(folder / "Video/01-01-06-02-02-01-01.wav")  # the sound of the video
    sound(folder / "Actor_25/03-01-06-02-02-01-25.wav")  # no such actor
    sound(folder / "notes/room.wav")
    return folder


def write_cremad(parent: Path) -> Path:
    folder = parent / "CREMA-D"
    wav = folder / "AudioWAV"
    sound(wav / "1001_IEO_ANG_HI.wav")
    sound(wav / "1040_ITH_SAD_X.wav", hz=220)
    sound(wav / "1002_DFA_FEA_XX.wav", hz=230)
    put(folder / "AudioMP3/1001_IEO_ANG_HI.mp3", b"mp3")
    put(folder / "VideoFlash/1001_IEO_ANG_HI.flv", b"flv")
    put(wav / "1003_TSI_HAP_XX.wav", POINTER)
    sound(wav / "1076_MTI_SAD_XX.wav", level=0.0)
    sound(wav / "1064_IEO_DIS_MD.wav", sec=61)
    whole = (wav / "1001_IEO_ANG_HI.wav").read_bytes()
    put(wav / "1064_TIE_SAD_XX.wav", whole[: len(whole) // 3])
    sound(wav / "1001_ABC_ANG_XX.wav")  # no such sentence
    put(
        folder / "VideoDemographics.csv",
        b"ActorID,Age,Sex,Race,Ethnicity\n1001,51,Male,Unknown,Not Hispanic\n1002,21,Female,A,B\n",
    )
    put(folder / "SentenceFilenames.csv", b'"Stimulus_Number","Filename"\n1,"1001_IEO_ANG_HI"\n')
    put(
        folder / "processedResults/summaryTable.csv",
        b'"","FileName","VoiceVote","VoiceLevel"\n"1","1001_IEO_ANG_HI","A","70"\n'
        b'"2","1040_ITH_SAD_XX","N","50"\n"3","1002_DFA_FEA_XX","F:S","50:60"\n'
        b'"4","1006_TIE_NEU_XX","N","60"\n',
    )
    return folder


def write_esd(parent: Path) -> Path:
    folder = parent / "Emotion Speech Dataset"
    chinese, english = folder / "0001", folder / "0011"
    sound(chinese / "生气/0001_000351.wav")
    sound(chinese / "中立/train/0001_000051.wav", hz=210)
    text = "0001_000351\t打远一看，它们的确很是美丽。\t生气\n0001_000051\t我们今天去学校。\t中立\n"
    put(chinese / "0001.txt", text.encode("gb18030"))
    sound(english / "Neutral/evaluation/0011_000001.wav", hz=220)
    sound(english / "Angry/test/0011_000371.wav", hz=230)
    sound(english / "Happy/train/0011_000999.wav", hz=240)  # unlisted
    lines = (
        "0011_000001\tThe nine the eggs, I keep.\tNeutral\r\n"
        "0011_000351 The nine eggs I keep. Angry\r\n"
        "0011_000371  It’s not a café.  Angry\r\n"
        "no line of it\r\n"
    )
    put(english / "0011.txt", lines.encode("cp1252"))
    sound(folder / "0012/Sad/0012_001051.wav", hz=250)
    put(folder / "0012/0012.txt", "0012_001051\tSixteen bits.\tSad\n".encode("utf-16"))
    sound(folder / "0013/Sad/0013_001051.wav", hz=260)
    put(folder / "0013/0013.txt", "0013_001051\tNo mark.\tSad\n".encode("utf-16-le"))
    sound(folder / "0002/Sad/0002_001051.wav", hz=270)
    put(folder / "0002/0002.txt", b"0002_001051\t\xff\xfe\xff\tSad\n" * 3)
    return folder
