//! The Wi-Fi of a seed, as wpa_supplicant reads it.

use std::fmt::Write;

use crate::seed::Wifi;

/// Contents of `wpa_supplicant-wlan0.conf`.
pub fn supplicant(wifi: &Wifi) -> String {
    // Hex, which needs no escaping, where a name or a passphrase may have any character.
    let hex = |text: &str| {
        text.bytes().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    };
    let key = match &wifi.password {
        None => "key_mgmt=NONE".to_owned(),
        Some(password) => {
            let password = password.expose();
            let is_key = password.len() == 64 && password.bytes().all(|byte| byte.is_ascii_hexdigit());
            // wpa_supplicant takes everything up to the last quote; a passphrase has printable ASCII only.
            let psk = if is_key {
                password.to_owned()
            } else {
                format!("\"{password}\"")
            };
            // No SAE: with it in the list, the Broadcom chips of the Pis fail on networks that offer WPA2 and WPA3.
            format!("psk={psk}\n\tkey_mgmt=WPA-PSK")
        }
    };
    format!(
        "# Written at each start from minidc.toml of the card.\nctrl_interface=DIR=/run/wpa_supplicant GROUP=root\nupdate_config=0\ncountry={}\n\nnetwork={{\n\tssid={}\n\tscan_ssid=1\n\t{key}\n}}\n",
        wifi.country,
        hex(&wifi.ssid),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::Secret;

    fn wifi(password: Option<&str>) -> Wifi {
        Wifi {
            ssid: "Café \"1\"".into(),
            password: password.map(Secret::new),
            country: "DE".into(),
        }
    }

    #[test]
    fn names_and_passphrases_of_all_kinds_are_written_so_that_nothing_ends_early() {
        let text = supplicant(&wifi(Some("a \"b\" \\c #d")));
        assert!(text.contains("\tssid=436166c3a920223122\n"), "{text}");
        assert!(text.contains("\tpsk=\"a \"b\" \\c #d\"\n"), "{text}");
        assert!(text.contains("country=DE\n"), "{text}");
        let key = "0123456789abcdef".repeat(4);
        assert!(supplicant(&wifi(Some(&key))).contains(&format!("\tpsk={key}\n")));
        let open = supplicant(&wifi(None));
        assert!(open.contains("key_mgmt=NONE") && !open.contains("psk="), "{open}");
    }
}
