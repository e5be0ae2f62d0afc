"""The barcode of a whole table of embeddings, which may be larger than the memory."""
