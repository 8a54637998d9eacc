"""The history of the schema. Run by `Database.migrate`; shipped with the package."""
