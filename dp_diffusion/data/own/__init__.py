"""Own images in the forms that people have them: files, tables, arrays."""
