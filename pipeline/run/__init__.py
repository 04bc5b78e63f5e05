"""The run: pending units of the manifest through decode, engine and sink. The only package that imports Ray."""
