"""Storage: folders and files at addresses such as `s3://bucket/key`, through pyarrow."""
