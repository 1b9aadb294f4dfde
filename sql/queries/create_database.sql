-- The database of the embedded server.
create database checkpointd
