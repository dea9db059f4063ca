"""The list of bugs fits the sources: run_mutants.py itself takes too long for every day."""

import pathlib
import unittest

from mutants import MUTANTS

ROOT = pathlib.Path(__file__).resolve().parents[2]


class MutantsTest(unittest.TestCase):

    def test_each_changes_one_place(self):
        for mutant in MUTANTS:
            with self.subTest(mutant.name):
                self.assertEqual((ROOT / mutant.file).read_text().count(mutant.old), 1)
                self.assertNotEqual(mutant.old, mutant.new)

    def test_names_are_their_own(self):
        self.assertEqual(len({mutant.name for mutant in MUTANTS}), len(MUTANTS))


if __name__ == "__main__":
    unittest.main()
