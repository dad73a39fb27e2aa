#!/bin/sh
# /usr/local/sbin/mini-rproxy-certificate: lego or certbot runs it when there is a new certificate.
set -e
certificate=${LEGO_CERT_PATH:-$RENEWED_LINEAGE/fullchain.pem}
key=${LEGO_CERT_KEY_PATH:-$RENEWED_LINEAGE/privkey.pem}
cd /etc/mini-rproxy/tls
install -m 640 -g ssl-cert "$key" key.pem.new
install -m 644 "$certificate" cert.pem.new
mv key.pem.new key.pem
mv cert.pem.new cert.pem
systemctl reload mini-rproxy
