# Everything that certificate-management might change: files with owners and modes, what is served, the ledger, and since when services run.
find /etc/ssl/certs/tracker.crt /etc/ssl/private /etc/postgresql/tls /etc/redis/tls /opt/llm-cost-tracker/client.* /etc/llm-cost-tracker \
  -printf '%p %y %l %u:%g %m %T@\n' 2>/dev/null | sort
cat /etc/llm-cost-tracker/certificates/ledger.jsonl 2>/dev/null
openssl s_client -connect 127.0.0.1:443 -servername tracker.test </dev/null 2>/dev/null | openssl x509 -noout -serial 2>/dev/null
openssl s_client -connect 127.0.0.1:5432 -starttls postgres </dev/null 2>/dev/null | openssl x509 -noout -serial 2>/dev/null
openssl s_client -connect 127.0.0.1:6380 </dev/null 2>/dev/null | openssl x509 -noout -serial 2>/dev/null
systemctl show --property=ActiveEnterTimestamp nginx redis-server llm-cost-tracker
true
