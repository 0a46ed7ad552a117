"""Reports: tables across cards and sizes, and the frames that charts are drawn from."""
