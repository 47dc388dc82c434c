#!/usr/bin/env bash
# A certificate for this pod's Ray, signed by the authority of its cluster (Ray's documentation, "TLS authentication").
#
#   certificate.sh CA TLS   reads tls.crt and tls.key of the folder CA, writes tls.crt, tls.key and ca.crt to TLS
#
# POD_IP is the address of this pod, FQ_RAY_IP the name of the head's service, as KubeRay sets it.
set -euo pipefail
authority=${1:?the folder of the authority is missing} folder=${2:?the folder to write to is missing}
names="DNS:localhost,IP:127.0.0.1,IP:${POD_IP:?is the address of this pod}${FQ_RAY_IP:+,DNS:$FQ_RAY_IP}"
umask 077
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=ray -keyout "$folder/tls.key" \
  -out "$folder/request.pem"
openssl x509 -req -in "$folder/request.pem" -CA "$authority/tls.crt" -CAkey "$authority/tls.key" \
  -set_serial "0x$(openssl rand -hex 16)" -days 365 -extfile <(echo "subjectAltName=$names") -out "$folder/tls.crt"
cp "$authority/tls.crt" "$folder/ca.crt"
rm "$folder/request.pem"
