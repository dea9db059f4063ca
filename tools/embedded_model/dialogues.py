"""Chat-formatted training text, made by templates from WordNet's glosses, and a few greetings.

No person and no model wrote these dialogues: they give the special tokens of the chat template a
meaning (a question is answered, briefly, and the turn ends), and no more.
"""

import pathlib
import random
from collections.abc import Iterator

from embedded_model import readers

_DEFINE = ("What is {article}{word}?", "What does {word} mean?", "Define {word}.", "Please define the word {word}.",
           "Can you explain {word}?", "Tell me what {word} means.", "What is the meaning of \"{word}\"?")
_SYNONYM = ("What is another word for {word}?", "Give me a synonym of {word}.", "Which word means the same as {word}?")
_EXAMPLE = ("Use {word} in a sentence.", "Give me an example with the word {word}.")
_GREETINGS = ("hello", "Hello", "Hello!", "Hi", "Hi!", "Hi there", "Hey", "Good morning", "Good evening", "hello there")
_GREETING_ANSWERS = ("Hello! What would you like to know?", "Hello! How can I help you?", "Hello! Ask me about a word.",
                     "Hi! What can I do for you?")
_WHO = ("Who are you?", "What are you?", "What is your name?", "Who am I talking to?")
_WHO_ANSWER = ("I am quire-tiny, a very small language model. I know a few words from a dictionary and the style of "
               "some manuals; do not rely on what I say.")
_THANKS = ("Thanks!", "Thank you.", "Thank you very much.", "Great, thanks.")
_THANKS_ANSWERS = ("You are welcome.", "You are welcome!", "Glad to help.")
_GREETING_SHARE = 0.03


def make(wordnet_root: pathlib.Path) -> Iterator[list[str]]:
    """Dialogues as alternating turns, the user first; deterministic."""
    random_source = random.Random(20240901)
    for name in ("data.noun", "data.verb", "data.adj", "data.adv"):
        (path,) = wordnet_root.glob(f"usr/share/wordnet/{name}")
        for words, kind, gloss in readers.wordnet_synsets(path.read_bytes()):
            # Names of persons and species fill half of the nouns: take the words of lower case, some of the rest.
            if words[0][0].isupper() and random_source.random() < 0.7:
                continue
            turns: list[str] = []
            if random_source.random() < _GREETING_SHARE:
                turns += [random_source.choice(_GREETINGS), random_source.choice(_GREETING_ANSWERS)]
            if random_source.random() < _GREETING_SHARE / 3:
                turns += [random_source.choice(_WHO), _WHO_ANSWER]
            turns += _exchange(random_source, words, kind, gloss)
            if random_source.random() < _GREETING_SHARE:
                turns += [random_source.choice(_THANKS), random_source.choice(_THANKS_ANSWERS)]
            yield turns


def _exchange(random_source: random.Random, words: list[str], kind: str, gloss: str) -> list[str]:
    word = random_source.choice(words)
    meaning, _, examples = gloss.partition('; "')
    draw = random_source.random()
    if examples and draw < 0.15:
        return [random_source.choice(_EXAMPLE).format(word=word), examples.split('"')[0].strip().capitalize() + "."]
    if len(words) > 1 and draw < 0.35:
        others = [w for w in words if w != word] or words
        return [random_source.choice(_SYNONYM).format(word=word), f"Another word for {word} is {others[0]}."]
    article = ""
    if kind == "noun" and word[0].islower():
        article = "an " if word[0] in "aeiou" else "a "
    question = random_source.choice(_DEFINE).format(word=word, article=article)
    verb = {"noun": "is", "verb": "means to"}.get(kind, "means")
    subject = article.capitalize() + word if article else word[0].upper() + word[1:]
    return [question, f"{subject} {verb} {meaning.strip()}."]
