# make demo   train FastViT-T8 on real handwritten digits and validate it
# make demo-detection, demo-segmentation, demo-instances
#             train RetinaNet, Semantic FPN and Mask R-CNN on digits in photographs
# make check  lint and run the quick tests, for the inner loop
# make test   lint and run the tests; make test-all adds the slow, exhaustive ones
# make docs   the documentation, as pages in site/
# make lint   style only

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONFIG := configs/fastvit/fastvit_t8_digits.yaml
OUTPUT := outputs/fastvit_t8_digits
# Two processes share the tests. They compile graphs in one thread most of the time, so each has one OpenMP thread.
# A file's tests share what they compiled or trained, so they stay in one process.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=25

# What the demos start from: detectors and segmenters from a classifier of the same digits, instances from the detector.
SINGLE := outputs/fastvit_t8_digits_scenes/fastvit_t8_best.ckpt
DETECTOR := outputs/retinanet_fastvit_t8_digits/retinanet_best.ckpt
INSTANCES := outputs/mask_rcnn_fastvit_t8_digits/mask_rcnn_best.ckpt

.PHONY: demo demo-detection demo-segmentation demo-instances check test test-all docs lint clean

demo: $(VENV)/installed
	$(BIN)/python train.py --config $(CONFIG) --distribute False
	$(BIN)/python validate.py -c $(CONFIG) --distribute False --ckpt_path $(OUTPUT)/fastvit_t8_best.ckpt --reparam True
	@echo
	@echo "Done. The learning curve is in $(OUTPUT)/results.csv. Next:"
	@echo "  train on your own images   $(BIN)/python train.py --config $(CONFIG) --distribute False --dataset '' --data_dir YOUR_FOLDER --num_classes None"
	@echo "  train on two processes     $(BIN)/mpirun -n 2 $(BIN)/python train.py --config $(CONFIG)"
	@echo "  run the tests              make test"

demo-detection: $(DETECTOR)

demo-segmentation: $(SINGLE)
	$(BIN)/python train.py --config configs/fastvit/semantic_fpn_fastvit_t8_digits.yaml --distribute False

demo-instances: $(INSTANCES)

$(SINGLE): | $(VENV)/installed
	$(BIN)/python train.py --config configs/fastvit/fastvit_t8_digits_scenes.yaml --distribute False

$(DETECTOR): $(SINGLE)
	$(BIN)/python train.py --config configs/fastvit/retinanet_fastvit_t8_digits.yaml --distribute False

$(INSTANCES): $(DETECTOR)
	$(BIN)/python train.py --config configs/fastvit/mask_rcnn_fastvit_t8_digits.yaml --distribute False

check: lint
	$(PYTEST) -m "not slow and not process"

test: lint
	$(PYTEST) -m "not slow"

test-all: lint
	$(PYTEST)

docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "Open site/index.html in a browser; to search in it, run python3 -m http.server --directory site and open port 8000."

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: requirements.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/installed-test: requirements-test.txt requirements-export.txt requirements-serve.txt requirements-docs.txt $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-test.txt
	touch $@

$(VENV)/installed-docs: requirements-docs.txt $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	touch $@

clean:
	rm -rf $(VENV) outputs data site
