//! From a scale set, its image and its user data to a model.

use crate::model::{Image, Model, Nic, UserData};
use crate::scaleset::ScaleSet;

/// Why a model can't be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The disk is smaller than the image.
    #[error("instance.disk is {disk}, but the image needs {image}")]
    DiskTooSmall {
        /// Asked for.
        disk: crate::units::Bytes,
        /// Needed.
        image: crate::units::Bytes,
    },
    /// The user data's template is wrong.
    #[error("the user data is no template that can be rendered: {0}")]
    Template(String),
}

/// The model that `set` describes with this image and user data.
///
/// # Errors
/// See [`ResolveError`].
pub fn model(set: &ScaleSet, image: &Image, user_data: Option<String>) -> Result<Model, ResolveError> {
    let instance = &set.instance;
    let disk = instance.disk.unwrap_or(image.virtual_size);
    if disk < image.virtual_size {
        return Err(ResolveError::DiskTooSmall {
            disk,
            image: image.virtual_size,
        });
    }
    if let Some(template) = &user_data {
        crate::hypervisor::seed::check_template(template).map_err(ResolveError::Template)?;
    }
    Ok(Model {
        image: image.clone(),
        vcpus: instance.vcpus,
        memory: instance.memory,
        disk,
        clone: instance.clone,
        cpu: instance.cpu.clone(),
        virtualization: instance.virtualization,
        firmware: instance.firmware,
        user_data: user_data.map(|template| UserData {
            template,
            vars: instance.vars.clone(),
        }),
        networks: (instance.networks.iter())
            .map(|nic| Nic {
                within: Vec::new(),
                ..nic.clone()
            })
            .collect(),
        data_disks: instance.data_disks.clone(),
    })
}
