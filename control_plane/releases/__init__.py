"""The registry of releases and the repository that devices trust."""
