"""Why a text scored as it did: word by word, through the purpose subspace, and on the image."""
