//! What S3 and DynamoDB share: how AWS is reached.
