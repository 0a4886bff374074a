"""Chat: vision-language models that are asked about images, in vLLM or behind an endpoint."""
