"""The critiques a cold start learns from: measuring, writing and judging."""
