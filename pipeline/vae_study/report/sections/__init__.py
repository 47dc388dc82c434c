"""The report's figures and printed tables: numbers, drawings, captions and cells of one subject in each module."""
