#!/usr/bin/env bash
# Looks at a router's TLS from outside with testssl.sh (Debian: testssl.sh) and sslyze (PyPI: sslyze),
# and fails on anything that is worse than it should be. By hand:
#
#   router/tests/regions/tls_scan.sh HOSTNAME ADDRESS:PORT AUTHORITY.pem
#
# or, with a router that is started for it:
#
#   cargo test -p router --test regions -- --ignored scan --nocapture
set -euo pipefail
[ $# -eq 3 ] || { echo "usage: $0 HOSTNAME ADDRESS:PORT AUTHORITY.pem" >&2; exit 64; }
hostname=$1 address=${2%:*} port=${2##*:} authority=$3
testssl=${TESTSSL:-$(command -v testssl || command -v testssl.sh)} ||
    { echo "testssl.sh is not installed; TESTSSL can name it" >&2; exit 69; }
sslyze=${SSLYZE:-$(command -v sslyze)} ||
    { echo "sslyze is not installed; SSLYZE can name it" >&2; exit 69; }
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

echo "== testssl.sh: protocols, ciphers, vulnerabilities, certificate, headers"
"$testssl" --quiet --color 0 --warnings off --ip "$address" --add-ca "$authority" \
    --severity LOW --jsonfile "$results/testssl.json" "https://$hostname:$port/" \
    >"$results/testssl.txt" || true
grep -iE 'overall grade|final score|HSTS|Strict Transport' "$results/testssl.txt" || true
# What depends on an authority of the Internet cannot be there on a test's certificate: revocation
# lists, transparency, CAA. An observation is no finding.
worse=0
python3 - "$results/testssl.json" <<'PYTHON' || worse=1
import json, sys

expected = {"cert_revocation", "cert_crlDistributionPoints", "cert_ocspURL", "OCSP_stapling", "CT", "DNS_CAArecord",
            "cert_caIssuers", "cert_certificatePolicies_EV", "cert_mustStapleExtension", "cert_extlifeSpan",
            "scanTime", "engine_problem",
            # What an instance says, not the router.
            "security_headers",
            # Clients choose among ciphers that are all good, as Mozilla wants it; older versions of
            # testssl.sh do not see that, nor can they resume with a newer OpenSSL.
            "cipher_order", "sessionresumption_ticket",
            # There is no HTTP/3.
            "QUIC"}
findings = [one for one in json.load(open(sys.argv[1]))
            if one["severity"] in ("LOW", "MEDIUM", "HIGH", "CRITICAL", "FATAL", "WARN")]
bad = [one for one in findings if one["id"].split(" ")[0] not in expected]
for one in findings:
    print(" ", "expected" if one not in bad else "WORSE", one["severity"], one["id"], one["finding"])
sys.exit(1 if bad else 0)
PYTHON

echo "== sslyze: Mozilla's intermediate profile"
"$sslyze" --mozilla_config=intermediate --certinfo_ca_file "$authority" --quiet \
    --json_out "$results/sslyze.json" "$hostname:$port{$address}" >"$results/sslyze.txt" || worse=1
grep -E 'OK - Compliant|FAILED|\* (tls|cipher|cert|maximum|ciphers|hsts|rsa|ecdh)' "$results/sslyze.txt" ||
    tail -20 "$results/sslyze.txt"
exit "$worse"
