"""The stages of a run, one file each: aescot -> coldstart -> rapo -> evaluate -> export ->
serve."""
