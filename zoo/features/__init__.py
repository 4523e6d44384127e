"""Features of a backbone that rests: computed once, kept in memory and on the disk for all runs that ask again."""
