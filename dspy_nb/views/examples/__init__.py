"""The examples behind a number: a plain table, and a script that makes it searchable."""
