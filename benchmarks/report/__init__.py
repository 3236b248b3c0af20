"""Tables: rows whose fields carry their format, as text and as JSON."""
