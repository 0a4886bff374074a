"""AesCoT: the critiques of the cold start, with their measures, teacher and judge."""
