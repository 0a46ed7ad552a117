# Each target is a word of lab.py; ARGS is passed on: make test ARGS="-k names"
PYTHON ?= python3

.PHONY: setup demo lab test test-gpu check notebooks rehearsals bench site release
setup:     ; @$(PYTHON) lab.py setup
demo:      ; @$(PYTHON) lab.py demo
lab:       ; @$(PYTHON) lab.py lab $(ARGS)
test:      ; @$(PYTHON) lab.py test $(ARGS)
test-gpu:  ; @$(PYTHON) lab.py test-gpu $(ARGS)
check:     ; @$(PYTHON) lab.py check
notebooks: ; @$(PYTHON) lab.py notebooks $(ARGS)
rehearsals: ; @$(PYTHON) lab.py rehearsals $(ARGS)
bench:     ; @$(PYTHON) lab.py bench $(ARGS)
site:      ; @$(PYTHON) lab.py site $(ARGS)
release:   ; @$(PYTHON) lab.py release $(ARGS)
