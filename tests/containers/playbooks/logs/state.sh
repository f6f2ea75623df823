# Every file that log management may touch: its name, inode, mode and owner; of configuration the content too.
set -eu
find /etc/logrotate.d /etc/systemd /etc/docker /etc/tmpfiles.d /srv/archive /var/log /opt/llm-cost-tracker -xdev -type f \
    ! -path '/var/log/journal/*' -printf '%p %i %m %u:%g\n' 2>/dev/null | sort
find /etc/logrotate.d /etc/systemd/journald.conf.d /etc/systemd/system /srv/archive -type f -exec sha256sum {} + 2>/dev/null | sort
