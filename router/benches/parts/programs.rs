//! The other programs that a benchmark needs, and the instance behind the proxies.

use std::{
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// The one hostname.
pub const HOST: &str = "localhost";

/// A program that was started, with all its children.
pub struct Group(Child);

impl Group {
    /// Starts it on one core.
    pub fn start(core: &str, program: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new("taskset");
        command.args(["-c", core, program]).args(arguments).process_group(0);
        command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
        Self(command.spawn().expect("is installed"))
    }

    /// The process group, which is the first process's id too.
    #[allow(dead_code, reason = "not every benchmark asks")]
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let group = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(group) = group {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

pub fn installed(program: &str) -> bool {
    let found = Command::new("which").arg(program).stdout(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}

/// An nginx that answers 1 KiB from memory, at a port and at a socket. Below `/large/` it has
/// files, and `/upload` answers when it has all of the body.
pub fn backend_conf(port: u16, socket: &Path, directory: &Path) -> String {
    let (body, at) = ("x".repeat(1024), directory.display());
    format!(
        "daemon off; worker_processes 1; pid {at}/backend.pid; error_log /dev/null;
         events {{ worker_connections 4096; }}
         http {{ access_log off; keepalive_requests 100000000; client_body_temp_path {at}/b1;
             proxy_temp_path {at}/b2; fastcgi_temp_path {at}/b3; uwsgi_temp_path {at}/b4;
             scgi_temp_path {at}/b5;
             server {{ listen 127.0.0.1:{port}; listen unix:{}; location / {{ return 200 '{body}'; }}
                 location /large/ {{ alias {at}/large/; }}
                 location /upload {{ proxy_pass http://127.0.0.1:{port}/; }} }} }}",
        socket.display()
    )
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    listener.local_addr().expect("has an address").port()
}

pub fn write(path: PathBuf, text: &str) -> PathBuf {
    std::fs::write(&path, text).expect("writes");
    path
}

/// The other proxies: name, program, configuration with `PORT` for the port.
#[allow(dead_code, reason = "not every benchmark asks")]
pub fn others(directory: &Path, backend: u16) -> Vec<(&'static str, &'static str, String)> {
    let at = directory.display();
    let nginx = format!(
        "daemon off; worker_processes 1; pid {at}/nginx.pid; error_log /dev/null;
         events {{ worker_connections 4096; }}
         http {{ access_log off; keepalive_requests 100000000; client_body_temp_path {at}/n1;
             proxy_temp_path {at}/n2; fastcgi_temp_path {at}/n3; uwsgi_temp_path {at}/n4;
             scgi_temp_path {at}/n5;
             upstream instance {{ server 127.0.0.1:{backend}; keepalive 128; keepalive_requests 100000000; }}
             server {{ listen 127.0.0.1:PORT ssl http2; server_name {HOST};
                 http2_max_requests 100000000;
                 ssl_certificate {at}/cert.pem; ssl_certificate_key {at}/key.pem;
                 ssl_protocols TLSv1.3;
                 location / {{ proxy_pass http://instance; proxy_http_version 1.1;
                     proxy_set_header Connection ''; proxy_set_header Host $host;
                     proxy_set_header X-Forwarded-For $remote_addr; }} }} }}"
    );
    let haproxy = format!(
        "global\n  nbthread 1\n  maxconn 4096\ndefaults\n  mode http\n  timeout connect 5s\n  \
         timeout client 60s\n  timeout server 60s\n  option forwardfor\n  http-reuse always\n\
         frontend f\n  bind 127.0.0.1:PORT ssl crt {at}/both.pem alpn h2,http/1.1 ssl-min-ver TLSv1.3\n  \
         default_backend b\nbackend b\n  server s 127.0.0.1:{backend} pool-max-conn 256\n"
    );
    let caddy = format!(
        "{{\n  admin off\n  auto_https off\n}}\nhttps://{HOST}:PORT {{\n  tls {at}/cert.pem {at}/key.pem {{\n    \
         protocols tls1.3\n  }}\n  reverse_proxy 127.0.0.1:{backend}\n}}\n"
    );
    vec![("nginx", "nginx", nginx), ("haproxy", "haproxy", haproxy), ("caddy", "caddy", caddy)]
}
