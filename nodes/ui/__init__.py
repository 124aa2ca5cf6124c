"""What nodes share towards the user: inputs, reports, pictures, drawing."""
