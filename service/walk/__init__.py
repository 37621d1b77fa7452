"""The walk of one request from arrival to answer. Knows no HTTP."""
