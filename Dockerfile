# One image for any of the four processes, or for all: docker run IMAGE python -m shop
FROM python:3.13-slim

WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY . .

RUN useradd parrot && mkdir /data && chown parrot /data
USER parrot
VOLUME /data
ENV DATA_DIR=/data HOST=0.0.0.0 LOG_FORMAT=json

HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["python", "-m", "runtime.health"]
# It ends when one of the four does, so that a restart policy can do its work: docker run --restart=always
CMD ["python", "run_all.py", "--abort-on-exit"]
