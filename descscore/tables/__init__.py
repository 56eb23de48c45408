"""Read pairs of image and text from tables, folders, archives and data sets."""
