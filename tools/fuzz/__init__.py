"""Damaged and hostile files by the thousand, each of which must end in what it holds or in a named error."""
