"""The words of which the load generator makes its prompts; to the embedded model each of them is one token."""

from __future__ import annotations

# Other words would make another model: its VERSION changes with them.
CONSONANTS = "bdfghjklmnprstvz"
VOWELS = "aeiou"


def words() -> list[str]:
    """The 1280 words, each with its leading space: n of them joined are a prompt of n tokens for the embedded model."""
    return [f" {first}{vowel}{last}" for first in CONSONANTS for vowel in VOWELS for last in CONSONANTS]
