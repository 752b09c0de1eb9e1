"""Other projects' formats, there and back: the only room that knows foreign names."""
