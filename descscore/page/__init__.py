"""The annotators' page: trying texts on an image, and judging the items of a study."""
