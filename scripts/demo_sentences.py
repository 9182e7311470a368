"""The sentences of the demo speech, from a small template grammar per language.

About a hundred words make thousands of sentences. A template is a line with {slots}. Every English
word is in the CMU dictionary, so that a recogniser can check the samples of a model.
"""

import random
import re
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
        return sentence[0].upper() + sentence[1:]

    def draw_new(self, count: int, random_source: random.Random, taken: set[str]) -> list[str]:
        """Return `count` different sentences that are not in `taken`, and add them to it."""
        sentences: list[str] = []
        while len(sentences) < count:
            sentence = self.draw(random_source)
            if sentence not in taken:
                taken.add(sentence)
                sentences.append(sentence)
        return sentences


ENGLISH = Grammar(
    templates=(
        "{who} {did} the {adjective} {thing} {past}.",
        "{who} {did} {number} {things} {past}.",
        "Please {put} the {thing} {place}.",
        "Could you {bring} me the {adjective} {thing}?",
        "We will {travel} to the {town} {future}.",
        "There are {number} {things} {place}.",
        "I would like {food} {meal}.",
        "Where did {who} leave the {thing}?",
        "The {town} is {mood} in the {season}.",
        "The {vehicle} to the {town} leaves {clock}.",
    ),
    slots={
        "who": (
            "my brother",
            "her sister",
            "the teacher",
            "our neighbor",
            "the doctor",
            "his uncle",
            "the baker",
            "my mother",
        ),
        "did": ("found", "bought", "lost", "sold", "painted", "cleaned"),
        "adjective": ("yellow", "green", "heavy", "empty", "little", "wooden", "silver"),
        "thing": (
            "basket",
            "bottle",
            "table",
            "ladder",
            "mirror",
            "camera",
            "kettle",
            "guitar",
            "umbrella",
            "bicycle",
        ),
        "things": ("books", "chairs", "flowers", "letters", "apples", "blankets"),
        "number": ("two", "three", "four", "five", "seven", "nine"),
        "past": (
            "yesterday",
            "last night",
            "this morning",
            "on Monday",
            "after lunch",
            "before dinner",
        ),
        "put": ("put", "leave", "keep"),
        "bring": ("bring", "show", "give"),
        "place": (
            "in the kitchen",
            "near the window",
            "behind the door",
            "under the stairs",
            "in the garden",
            "beside the fire",
        ),
        "travel": ("walk", "drive", "travel"),
        "town": ("market", "river", "bridge", "library", "harbor", "village", "station"),
        "future": (
            "tomorrow",
            "this evening",
            "on Friday",
            "after breakfast",
            "at noon",
            "next week",
        ),
        "food": (
            "a cup of coffee",
            "a glass of water",
            "a bowl of soup",
            "some bread and honey",
            "some cheese",
            "an orange",
        ),
        "meal": ("for breakfast", "with my lunch", "before dinner", "this evening"),
        "mood": ("quiet", "cold", "beautiful", "crowded"),
        "season": ("winter", "summer", "morning", "evening"),
        "vehicle": ("train", "bus", "ferry"),
        "clock": ("at noon", "at seven", "before nine", "in ten minutes"),
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
