"""AesCoT as a job: rounds of questions to teacher and judge, and shards of their answers."""
