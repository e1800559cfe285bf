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

CMD ["python", "run_all.py"]
