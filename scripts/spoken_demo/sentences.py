"""The sentences of the spoken demo, from a small template grammar per language.

A few hundred words make millions of sentences. A template is a line with {slots}. Every English
word is in the CMU dictionary, so that a recogniser can check the samples of a model.
"""

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Grammar:
    """Templates of whole sentences and the words that fill their slots."""

    templates: Sequence[str]
    slots: Mapping[str, Sequence[str]]

    def draw(self, random_source: random.Random) -> str:
        """Return one sentence."""
        template = random_source.choice(self.templates)
        sentence = re.sub(
            r"\{(\w+)\}", lambda slot: random_source.choice(self.slots[slot[1]]), template
        )
        sentence = sentence[0].upper() + sentence[1:]
        return re.sub(r"(?<=\. )[a-z]", lambda letter: letter[0].upper(), sentence)

    def draw_new(self, count: int, random_source: random.Random, taken: set[str]) -> list[str]:
        """Return `count` different sentences that are not in `taken`, and add them to it."""
        sentences: list[str] = []
        while len(sentences) < count:
            sentence = self.draw(random_source)
            if sentence not in taken:
                taken.add(sentence)
                sentences.append(sentence)
        return sentences


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)*", text.lower())


def frequent_words(grammar: Grammar, count: int, first: Sequence[str]) -> list[str]:
    """Return `count` words, sorted: those of the texts `first`, then a grammar's most frequent."""
    random_source = random.Random(0)  # noqa: S311 - reproducible, not secret
    drawn = Counter(word for _ in range(5000) for word in words_of(grammar.draw(random_source)))
    words = [word for text in first for word in words_of(text)]
    words += [word for word, _ in drawn.most_common()]
    return sorted(list(dict.fromkeys(words))[:count])


def draw_phrases(words: Sequence[str], count: int, random_source: random.Random) -> list[str]:
    """Return phrases of one to seven words in no order.

    In a sentence of a grammar, a model can guess the next word from those before it; here, only
    the text tells. Without them it learns to speak sentences of the grammar, but not the one that
    is asked for.
    """
    phrases: list[str] = []
    for _ in range(count):
        length = random_source.choice((1, 2, 3, 3, 4, 4, 5, 5, 6, 7))
        phrase = " ".join(random_source.choice(words) for _ in range(length))
        phrases.append(phrase[0].upper() + phrase[1:] + ".")
    return phrases


TELEPHONE = Grammar(
    templates=(
        "Please enter {the} {kind} number followed by the {key} key.",
        "Please enter {the} {kind} number.",
        "Please {do} {the} {item} and try again.",
        "{press} {digit} to {action}.",
        "{press} {digit} to {action}, or {digit} to {action}.",
        "{press} {digit} for {choice}.",
        "To {action}, press {digit}.",
        "For {choice}, press {digit}.",
        "{The} {item} {state}.",
        "{The} {item} {state}. {end}",
        "You {have} {amount} {unit} {message}.",
        "You are {status}.",
        "You {can} {action} {when}.",
        "There {are} {amount} {people} in the conference.",
        "{The} {kind} number is {digit} {digit} {digit}.",
        "{digit} {digit} {digit} {digit}.",
        "{end}",
        "{tens} {digit} {units}.",
        "I am sorry, {the} {item} {state}.",
        "Your {item} {state}.",
    ),
    slots={
        "the": ("the", "your", "a new", "your new", "that"),
        "The": ("the", "this", "that", "your"),
        "kind": (
            "agent",
            "conference",
            "channel",
            "telephone",
            "extension",
            "account",
            "mailbox",
            "pin",
            "ten digit",
            "call back",
            "area code and",
        ),
        "key": ("pound", "star", "zero"),
        "do": ("check", "hold", "record", "repeat", "dial", "enter", "hang up", "leave", "say"),
        "item": (
            "agent",
            "conference",
            "number",
            "extension",
            "password",
            "message",
            "pin",
            "call",
            "name",
            "feature",
            "system",
            "mailbox",
            "line",
            "person",
            "recording",
            "temporary greeting",
            "directory",
            "service",
            "entry",
            "party",
        ),
        "press": ("press", "please press", "or press"),
        "digit": (
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
        ),
        "action": (
            "mute yourself",
            "lock or unlock the conference",
            "increase the volume",
            "decrease the volume",
            "leave a message",
            "exit",
            "exit this menu",
            "listen to it",
            "hear the next message",
            "repeat the message",
            "delete this message",
            "save this message",
            "forward the message to another user",
            "record your name",
            "record your message after the tone",
            "change your password",
            "change folders",
            "return to the main menu",
            "continue",
            "reach the operator",
            "accept this recording",
            "re record your message",
            "speak with a customer",
            "send a reply",
            "call back",
            "use this number",
            "cancel",
            "hear the date and time",
            "place an outgoing call",
        ),
        "choice": (
            "more options",
            "an operator",
            "help",
            "a company directory",
            "the main menu",
            "advanced options",
            "new messages",
            "old messages",
            "sales",
            "work",
            "family",
            "friends",
            "English",
            "first name",
            "last name",
            "mailbox options",
        ),
        "state": (
            "is not valid",
            "is incorrect",
            "is busy",
            "is full",
            "is locked",
            "is now locked",
            "is now unlocked",
            "is now muted",
            "is being recorded",
            "is not available",
            "is on the phone",
            "is already logged on",
            "is unavailable at this time",
            "is not in service",
            "has been extended",
            "has been changed",
            "has been saved",
            "has been deleted",
            "has been set to",
            "has been activated",
            "has left the conference",
            "has been disabled",
            "cannot be completed as dialed",
            "cannot be found",
            "will now begin",
            "was not recorded",
            "did not match",
            "from an unknown caller",
            "sent by",
        ),
        "have": ("have", "now have", "currently have"),
        "amount": ("no", "one", "two", "five", "six", "ten", "twelve", "twenty", "many"),
        "unit": ("new", "old", "more", "other", "unread", "urgent"),
        "message": ("messages", "calls", "names", "minutes", "seconds", "recordings"),
        "status": (
            "now muted",
            "currently the only person in this conference",
            "entering conference number one",
            "currently the next caller",
            "being placed on hold",
            "the first caller in line",
            "now logged in",
            "in line for the next available agent",
        ),
        "can": ("may now", "can", "may", "cannot"),
        "when": ("now", "at any time", "after the tone", "when you are finished", "later"),
        "are": ("are currently", "are", "will be"),
        "people": ("people", "other participants", "callers", "users", "agents"),
        "end": (
            "please try again.",
            "goodbye.",
            "thank you for calling.",
            "thank you for your patience.",
            "please hold while I try that extension.",
            "please hold.",
            "an error has occurred.",
            "one moment, please.",
            "leave your message after the tone.",
            "please wait for the next available representative.",
            "all circuits are busy now.",
            "the time is now.",
            "at the tone, please record your name.",
            "when finished, hang up or press the pound key.",
            "to find someone in the directory, say the name.",
            "your estimated hold time is two minutes.",
            "this call may be monitored or recorded.",
        ),
        "tens": ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"),
        "units": ("seconds", "minutes", "hours", "percent", "degrees", "dollars"),
    },
)

SPANISH = Grammar(
    templates=(
        "{quien} {hizo} {cosa} {pasado}.",
        "{quien} {hizo} {numero} {cosas} {pasado}.",
        "Por favor, {pon} {cosa} {lugar}.",
        "¿Puedes traerme {cosa} {color}?",
        "Mañana iremos {ciudad} {modo}.",
        "Hay {numero} {cosas} {lugar}.",
        "Quiero {comida} {comer}.",
        "¿Dónde está {cosa} {color}?",
        "{sitio} es muy {alegre} en {tiempo}.",
    ),
    slots={
        "quien": ("mi hermano", "la maestra", "el médico", "mi abuela", "el vecino", "tu prima"),
        "hizo": ("compró", "encontró", "perdió", "vendió", "pintó", "limpió"),
        "cosa": (
            "el reloj",
            "la lámpara",
            "el espejo",
            "la guitarra",
            "el sombrero",
            "la silla",
            "el paraguas",
            "la botella",
        ),
        "cosas": ("libros", "flores", "cartas", "manzanas", "platos"),
        "numero": ("dos", "tres", "cuatro", "cinco", "siete", "nueve"),
        "pasado": ("ayer", "anoche", "esta mañana", "el lunes", "el domingo", "después de comer"),
        "pon": ("deja", "pon", "busca"),
        "lugar": (
            "en la cocina",
            "cerca de la ventana",
            "detrás de la puerta",
            "en el jardín",
            "sobre la mesa",
        ),
        "color": ("verde", "azul", "gris", "grande"),
        "ciudad": ("al mercado", "a la playa", "al río", "a la biblioteca", "al pueblo"),
        "modo": ("en tren", "en coche", "con mi padre", "después de cenar", "por la tarde"),
        "comida": ("un café", "un vaso de agua", "pan con queso", "sopa caliente", "té con miel"),
        "comer": ("para cenar", "con mi desayuno", "por la tarde", "por favor"),
        "sitio": ("el río", "el pueblo", "la playa", "la plaza"),
        "alegre": ("alegre", "grande", "verde", "agradable"),
        "tiempo": ("verano", "invierno", "otoño", "primavera"),
    },
)
